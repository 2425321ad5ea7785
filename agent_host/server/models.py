"""The endpoints of models: clients and user interfaces look here for what they can name as `model`."""

from typing import Any

from agent_host.server.exchange import Exchange
from agent_host.server.host import Host
from agent_host.wire import problems
from agent_host.wire.models import model_object, models_object


async def list_models(exchange: Exchange) -> None:
    """GET /models: the workflow of this host."""
    await exchange.answer(models_object([_model(exchange.host)]))


async def retrieve_model(exchange: Exchange) -> None:
    """GET /models/{id}: the workflow, by its name."""
    name = exchange.path("model_id")
    exchange.about = name
    if name != exchange.host.workflow.name:
        raise problems.model_not_found(name)
    await exchange.answer(_model(exchange.host))


def _model(host: Host) -> dict[str, Any]:
    return model_object(host.workflow.name, host.questions)
