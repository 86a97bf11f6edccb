"""Settings of a folder of prompts, in two parts: what decides the prompts, and how they are got."""

from dataclasses import dataclass

from latent2pixel.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """What decides the prompts: a folder keeps these; going on with others is refused."""

    num: int = 1000
    """Prompts to keep."""
    seed: int = 0
    """Seed of the plan, the directions and the model's sampling."""
    detailed_share: float = 0.8
    """Share of detailed prompts; the others are simple."""
    zh_share: float = 0.2
    """Share of Chinese prompts; the others are English."""
    batch_size: int = 10
    """Prompts asked for at a time; later rounds ask for fewer."""
    temperature: float = 1.0
    """Of the writer's sampling; the auditor samples at 0."""
    expand_to: int = 0
    """Fine categories that the model extends the taxonomy to first; 0 takes it as it is."""
    judge: bool = True
    """Let a language model audit what the local checks pass."""
    judge_batch_size: int = 10
    """Prompts audited at a time; never more than one question of the writer brought."""
    check_openers: bool = True
    """Refuse prompts that begin like another of their batch, or like many others."""
    check_lengths: bool = True
    """Refuse prompts far outside the length of their type."""
    near_duplicates: float = 0.75
    """Cosine similarity from which prompts are near-duplicates; 0 leaves this check out. It fits the encoder ngrams,
    where rewordings have 0.75 to 0.95 and unrelated prompts below 0.3; models of model2vec want about 0.9."""
    encoder: str = "ngrams"
    """"ngrams" (offline), or the folder or Hub id of a model2vec model."""

    def __post_init__(self) -> None:
        _require(self.num >= 1, "num", self.num, "at least 1")
        for name in ("batch_size", "judge_batch_size"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("detailed_share", "zh_share", "near_duplicates"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "from 0 to 1")
        _require(0 <= self.temperature <= 2, "temperature", self.temperature, "from 0 to 2")
        _require(self.expand_to >= 0, "expand_to", self.expand_to, "0, or the number of categories wanted")


@dataclass(frozen=True, kw_only=True)
class AskSettings:
    """How a model is asked: may change from one call to the next."""

    rounds: int = 4
    """How often a place whose prompt was rejected is written again, the first time included."""
    attempts: int = 3
    """Replies to one question that are paid for before its prompts count as rejected."""
    retries: int = 4
    """Times that a question is sent again after a failure of the server, without a reply."""
    concurrency: int = 8
    """Questions under way at a time."""
    timeout_s: float = 120.0
    """Longest wait for one reply, whole."""
    backoff_s: float = 1.0
    """Wait before the first repetition; it doubles with each, up to 60 times this."""
    stop_after: int = 8
    """Questions in succession that fail for good before the run stops: the server is down."""
    requests_per_minute: float = 0.0
    """Upper limit; 0 is none."""
    tokens_per_minute: float = 0.0
    """Upper limit of tokens in and out, kept on average over minutes; 0 is none."""
    max_tokens: int = 8192
    """Longest reply in tokens; a thinking model's thoughts count."""
    price_in: float = 0.0
    """Price of a million tokens in, in any currency."""
    price_out: float = 0.0
    """Price of a million tokens out."""
    max_cost: float = 0.0
    """The run stops before a question once it has cost this much; 0 is no limit."""

    def __post_init__(self) -> None:
        for name in ("rounds", "attempts", "concurrency", "stop_after", "max_tokens"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        names = (
            "retries",
            "backoff_s",
            "requests_per_minute",
            "tokens_per_minute",
            "price_in",
            "price_out",
            "max_cost",
        )
        for name in names:
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _require(self.timeout_s > 0, "timeout_s", self.timeout_s, "above 0")
        priced = self.price_in + self.price_out > 0
        _require(not self.max_cost or priced, "max_cost", self.max_cost, "a price_in or price_out beside it")


def _require(holds: bool, name: str, found: object, expected: str) -> None:
    if not holds:
        raise ConfigError(
            f"The setting {name} is out of range", found=found, expected=expected, fix=f"Choose another {name}."
        )
