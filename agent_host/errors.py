"""Every exception of the package, sorted by who must act.

An error says what is wrong, names the thing, and says what to do about it. `code` is stable: programs may
match on it. Workflow errors keep the names that agent_framework users know.
"""


class AgentHostError(Exception):
    """The parent of all errors raised by this package."""

    code = "agent_host_error"


# --- The author of the workflow must change the program -------------------------------------------------------


class WorkflowException(AgentHostError):
    """Something is wrong with a workflow or one of its runs."""

    code = "workflow_error"


class WorkflowValidationError(WorkflowException):
    """The graph cannot work as it is declared."""

    code = "invalid_workflow"


class EdgeDuplicationError(WorkflowValidationError):
    """The same pair of executors is connected twice."""

    code = "duplicate_edge"


class TypeCompatibilityError(WorkflowValidationError):
    """Nothing the source sends can be handled by the target."""

    code = "incompatible_types"


class GraphConnectivityError(WorkflowValidationError):
    """An executor cannot be reached from the start executor."""

    code = "unreachable_executor"


class HandlerError(WorkflowValidationError):
    """A handler is declared in a way that cannot be understood, or two handlers cannot be told apart."""

    code = "invalid_handler"


class ExecutorStateError(WorkflowValidationError):
    """An executor holds something that can be neither stored per conversation nor shared by all of them."""

    code = "invalid_executor_state"


class WorkflowRunnerException(WorkflowException):
    """A run cannot go on."""

    code = "run_failed"


class ExecutorTimeoutError(WorkflowRunnerException, TimeoutError):
    """A handler took longer than its executor's timeout."""

    code = "executor_timeout"


class StepMismatchError(WorkflowRunnerException):
    """A repeated handler did not make its steps in the order in which their results were recorded."""

    code = "step_mismatch"


class WorkflowConvergenceException(WorkflowRunnerException):
    """The run used up its supersteps before it came to rest; what is queued is kept."""

    code = "too_many_supersteps"


class StateConflictError(WorkflowRunnerException):
    """Two executors wrote the same shared key in one superstep."""

    code = "state_conflict"


class UnsupportedValueError(WorkflowRunnerException):
    """A value cannot be stored, so it may not enter a checkpoint."""

    code = "unsupported_value"


# --- The caller of the engine must call differently -----------------------------------------------------------


class WorkflowBusyError(WorkflowException, RuntimeError):
    """The session already has a run; one session has one run at a time."""

    code = "session_busy"


class WorkflowConflictError(WorkflowException):
    """The session moved on meanwhile: someone else committed to it first. Nothing was written."""

    code = "head_moved"


class UnknownRequestError(WorkflowException, ValueError):
    """An answer names a request that is not open."""

    code = "unknown_request"


class WorkflowCheckpointException(WorkflowException):
    """A checkpoint cannot be written, found or read."""

    code = "checkpoint_error"


class CheckpointNotFoundError(WorkflowCheckpointException):
    """No checkpoint has this id."""

    code = "checkpoint_not_found"


class CheckpointDecodeError(WorkflowCheckpointException):
    """A stored value is damaged or of a type this program does not allow."""

    code = "checkpoint_unreadable"


# --- The operator must act -------------------------------------------------------------------------------------


class TargetError(AgentHostError):
    """The workflow named on the command line cannot be loaded."""

    code = "bad_target"


class SettingsError(AgentHostError):
    """A setting has a value that cannot be used."""

    code = "bad_setting"


class DeployError(AgentHostError):
    """A hosted agent cannot be deployed, or a deployed one does not answer."""

    code = "deploy_failed"


class StoreError(AgentHostError):
    """The store cannot be used."""

    code = "store_error"


class StoreFormatError(StoreError):
    """The store's file is not a store, or a newer version wrote it."""

    code = "store_format"


class StoreLockedError(StoreError):
    """Another process uses the store's file."""

    code = "store_locked"


class StoreLimitError(StoreError):
    """Something is larger than the store can hold. Nothing was written."""

    code = "store_limit"


class StoreClosedError(StoreError):
    """The store is closed; the process is going down."""

    code = "store_closed"


class TurnConflictError(StoreError):
    """A turn may not be finished: its id is taken, or its conversation moved on. Nothing was written."""

    code = "turn_conflict"


class GuardLostError(TurnConflictError):
    """A background turn has another owner now, or has ended. Nothing was written."""

    code = "guard_lost"


class ConversationLockedError(TurnConflictError):
    """A conversation has another turn in flight. Nothing was written."""

    code = "conversation_locked"


class UnknownItemError(StoreError):
    """A list is to go on behind an item that it does not have."""

    code = "unknown_item"
