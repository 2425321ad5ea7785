"""What happens to an executor's call that fails or takes too long."""

from dataclasses import dataclass

from agent_host.errors import ExecutorTimeoutError, WorkflowException, WorkflowValidationError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Call a handler again when it raises: at most `max_attempts` calls in all.

    The n-th repetition waits `delay * backoff ** (n - 1)` seconds, at most `max_delay`. `retry_on` names the
    exceptions that are worth it. Each attempt starts from the executor's state and the message as the first one
    found them; results of `ctx.step` are kept from attempt to attempt.
    """

    max_attempts: int = 3
    delay: float = 0.5
    backoff: float = 2.0
    max_delay: float = 30.0
    retry_on: tuple[type[Exception], ...] = (Exception,)

    def __post_init__(self) -> None:
        attempts: object = self.max_attempts
        if not isinstance(attempts, int) or attempts < 1:
            raise WorkflowValidationError(
                f"max_attempts of a RetryPolicy must be a whole number, at least 1; got {attempts!r}."
            )
        kinds: object = self.retry_on
        if not isinstance(kinds, tuple) or not all(isinstance(kind, type) for kind in kinds):
            raise WorkflowValidationError(f"retry_on takes a tuple of exception classes; got {kinds!r}.")
        for name in ("delay", "backoff", "max_delay"):
            given: object = getattr(self, name)
            if not isinstance(given, (int, float)) or not given >= 0:
                raise WorkflowValidationError(f"{name} of a RetryPolicy must be a number, not negative; got {given!r}.")

    def pause(self, attempt: int, error: Exception) -> float | None:
        """Seconds to wait after the failure of the `attempt`-th call (from 1); None if the error stands.

        Errors of the engine itself, such as a value that cannot be stored, would come again: only a timeout is
        worth another try.
        """
        lasting = isinstance(error, WorkflowException) and not isinstance(error, ExecutorTimeoutError)
        if attempt >= self.max_attempts or lasting or not isinstance(error, self.retry_on):
            return None
        try:
            return min(self.delay * self.backoff ** (attempt - 1), self.max_delay)
        except OverflowError:
            return self.max_delay
