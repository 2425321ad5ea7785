// A Foundry project for hosted agents: its account, a model, a registry for images, monitoring, and who may do what.
// Everything is named after the resource group, so deploying again changes it instead of making another one.

targetScope = 'resourceGroup'

@description('Region; it must be one that hosts agents.')
param location string = resourceGroup().location

@description('Name of the project.')
@minLength(3)
@maxLength(32)
param projectName string = 'agents'

@description('Name under which programs ask for the model.')
param modelDeploymentName string = 'chat'

@description('The model.')
param modelName string = 'gpt-5-mini'

@description('Version of the model.')
param modelVersion string = '2025-08-07'

@description('Thousands of tokens a minute.')
param modelCapacity int = 10

@description('Object id of who deploys agents; empty if the roles are given elsewhere.')
param deployerId string = ''

@description('What the deployer is.')
@allowed(['User', 'Group', 'ServicePrincipal'])
param deployerType string = 'User'

@description('Object id of a group or an application that calls the agents; empty for none.')
param callerId string = ''

@description('What the caller is.')
@allowed(['User', 'Group', 'ServicePrincipal'])
param callerType string = 'Group'

var token = uniqueString(subscription().id, resourceGroup().id)

var roles = {
  acrPull: '7f951dda-4ed3-4680-a7ca-43fe172d538d'
  acrPush: '8311e382-0749-4cb8-b61a-304f252e45ec'
  acrTasksContributor: 'fb382eab-e894-4461-af04-94435c366c3f'
  foundryUser: '53ca6127-db72-4b80-b1b0-d745d6d5456d'
  foundryProjectManager: 'eadc314b-1a2d-4efa-be10-5d325db5065e'
  foundryAgentConsumer: 'eed3b665-ab3a-47b6-8f48-c9382fb1dad6'
  logAnalyticsDataReader: '3b03c2da-16b3-4a49-8834-0f8130efdd3b'
}

// --- The project and its model -----------------------------------------------------------------------------------

resource account 'Microsoft.CognitiveServices/accounts@2025-06-01' = {
  name: 'foundry-${token}'
  location: location
  kind: 'AIServices'
  sku: {
    name: 'S0'
  }
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    allowProjectManagement: true
    customSubDomainName: 'foundry-${token}'
    disableLocalAuth: true
    publicNetworkAccess: 'Enabled'
  }
}

resource model 'Microsoft.CognitiveServices/accounts/deployments@2025-06-01' = {
  parent: account
  name: modelDeploymentName
  sku: {
    name: 'GlobalStandard'
    capacity: modelCapacity
  }
  properties: {
    model: {
      format: 'OpenAI'
      name: modelName
      version: modelVersion
    }
  }
}

// The account takes one change at a time.
resource project 'Microsoft.CognitiveServices/accounts/projects@2025-06-01' = {
  parent: account
  name: projectName
  location: location
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    displayName: projectName
  }
  dependsOn: [
    model
  ]
}

// --- Images and monitoring ---------------------------------------------------------------------------------------

resource registry 'Microsoft.ContainerRegistry/registries@2023-07-01' = {
  name: 'images${token}'
  location: location
  sku: {
    name: 'Standard'
  }
  properties: {
    adminUserEnabled: false
  }
}

resource workspace 'Microsoft.OperationalInsights/workspaces@2023-09-01' = {
  name: 'logs-${token}'
  location: location
  properties: {
    retentionInDays: 30
    sku: {
      name: 'PerGB2018'
    }
  }
}

resource insights 'Microsoft.Insights/components@2020-02-02' = {
  name: 'insights-${token}'
  location: location
  kind: 'web'
  properties: {
    Application_Type: 'web'
    WorkspaceResourceId: workspace.id
  }
}

// With this connection the platform gives every agent the variable APPLICATIONINSIGHTS_CONNECTION_STRING.
resource monitoring 'Microsoft.CognitiveServices/accounts/projects/connections@2025-06-01' = {
  parent: project
  name: 'monitoring'
  properties: {
    category: 'AppInsights'
    target: insights.id
    authType: 'ApiKey'
    isSharedToAll: true
    credentials: {
      key: insights.properties.ConnectionString
    }
    metadata: {
      ApiType: 'Azure'
      ResourceId: insights.id
    }
  }
}

// --- Who may do what ---------------------------------------------------------------------------------------------

resource projectPulls 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(registry.id, project.id, roles.acrPull)
  scope: registry
  properties: {
    principalId: project.identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.acrPull)
  }
}

resource projectWorks 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(account.id, project.id, roles.foundryUser)
  scope: account
  properties: {
    principalId: project.identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.foundryUser)
  }
}

resource projectReadsLogs 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(workspace.id, project.id, roles.logAnalyticsDataReader)
  scope: workspace
  properties: {
    principalId: project.identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.logAnalyticsDataReader)
  }
}

resource deployerManages 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(deployerId)) {
  name: guid(project.id, deployerId, roles.foundryProjectManager)
  scope: project
  properties: {
    principalId: deployerId
    principalType: deployerType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.foundryProjectManager)
  }
}

resource deployerPushes 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(deployerId)) {
  name: guid(registry.id, deployerId, roles.acrPush)
  scope: registry
  properties: {
    principalId: deployerId
    principalType: deployerType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.acrPush)
  }
}

// To push is not enough for letting the registry build.
resource deployerBuilds 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(deployerId)) {
  name: guid(registry.id, deployerId, roles.acrTasksContributor)
  scope: registry
  properties: {
    principalId: deployerId
    principalType: deployerType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.acrTasksContributor)
  }
}

resource callerCalls 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(callerId)) {
  name: guid(project.id, callerId, roles.foundryAgentConsumer)
  scope: project
  properties: {
    principalId: callerId
    principalType: callerType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.foundryAgentConsumer)
  }
}

output FOUNDRY_PROJECT_ENDPOINT string = 'https://${account.name}.services.ai.azure.com/api/projects/${project.name}'
output AZURE_CONTAINER_REGISTRY_ENDPOINT string = registry.properties.loginServer
output MICROSOFT_FOUNDRY_MODEL_DEPLOYMENT_NAME string = model.name
