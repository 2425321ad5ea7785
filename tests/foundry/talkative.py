"""A workflow that logs what it hears, by itself and through a library, and has a span of its own."""

import logging
import os

from opentelemetry import trace

from agent_host import WorkflowBuilder, WorkflowContext, executor

log = logging.getLogger("talkative")


@executor
async def hear(text: str, ctx: WorkflowContext[str, str]) -> None:
    with trace.get_tracer("talkative").start_as_current_span("looking it up"):
        log.debug("a detail")
        log.info("heard %s", text)
    for library in ("azure.core.pipeline", "httpx", "uvicorn.access"):
        logging.getLogger(library).info("a call of a library")
    logging.getLogger("openai").warning("heard it through a library")
    if os.environ.get("TALKATIVE_MISTAKE"):
        log.info("heard", text)
    await ctx.yield_output(text)


workflow = WorkflowBuilder(start_executor=hear, name="talkative").build()
