from __future__ import annotations

from autodidact.credits.macro import Chunking, Sigma, chunk_gae, macro_chunks, sigma_weights
from autodidact.credits.value import Critic, HeadKind, token_rewards
from autodidact.law import Law
from autodidact.losses.importance import Correct
from autodidact.losses.policy import Surrogate, policy_gradient
from autodidact.losses.weights import Normalise, normalised
from autodidact.method import Method, factory
from autodidact.names import at_least_one
from autodidact.rollouts.sample import Sample


@factory
def macro_actions(
    n: int = 1,
    length: int = 1024,
    chunks: Chunking = "ngram",
    size: int = 5,
    sigma: Sigma = "equal",
    clip: float = 0.2,
    clip_high: float | None = None,
    dual: float | None = None,
    kl: float = 0.05,
    gamma: float = 1.0,
    lam: float = 0.95,
    head: HeadKind = "linear",
    role: str = "initial",
    value_lr: float = 1e-4,
    value_clip: float | None = 0.2,
    normalise: Normalise = "token",
    epochs: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    correct: Correct | None = None,
    cap: float = 2.0,
) -> Method:
    """MA-RLHF: PPO whose advantages step over chunks of tokens, not over tokens.

    V_k = sum_{t in k} sigma_t V_t, r_k alike; d_k = r_k + gamma V_{k+1} - V_k;
    A_k = d_k + gamma lam A_{k+1}, the same at every token of chunk k, then whitened;
    L = -mean_t min(rho_t A, clip(rho_t, 1-clip, 1+clip_high) A), with the ratio of each token;
    V of every token of a chunk learns the return of the chunk. The last token is its own chunk.

    Source: MA-RLHF: Reinforcement Learning from Human Feedback with Macro Actions,
    arXiv 2410.02743. Chunks of a parse tree are left out, as they need the same tokens again from
    a parser, and so is the bound of 2.5 on learned rewards. As in the release token rewards are
    averaged over a chunk, which weakens the divergence in them but not R, which stands alone.
    Needs: `answer`. Detached: as `ppo`, and the chunks.
    Shapes: one value per own token.
    Raises: ValueError for unknown chunks or sigma, size < 1, and as `ppo`.
    Degenerates to: `ppo` for size=1; one chunk to a row is a bandit, whose advantage is constant.

    Args:
        chunks: "ngram", of `size` tokens; "random", of 1, 2, 3, 5 or 10 tokens; "perplexity", a
            new one where the perplexity of the row so far, to the initial weights, rises.
        size: tokens of a chunk of "ngram".
        sigma: "equal", 1 / |k|; "unit", the last token; "position", 1 / (1 + place), normalised.
        clip, clip_high, dual, kl, gamma, lam: as in `ppo`.
        head, role, value_lr, value_clip, normalise, correct, cap: as in `ppo`.
    """
    at_least_one(size=size)
    critic = Critic(role, value_lr, head, clip=value_clip)

    def credit(batch, models):
        batch = critic.read(batch, models)
        spans = macro_chunks(batch, models, chunks, size)
        rewards, values = token_rewards(batch, models, kl), batch.take("value")
        found = chunk_gae(spans, sigma_weights(spans, sigma), rewards, values, gamma, lam)
        return critic.target(batch, *found)

    method = policy_gradient(
        Sample(n, length, Law(temperature, top_k, top_p)),
        credit,
        Surrogate(low=clip, high=clip_high, dual=dual, correct=correct, cap=cap),
        normalised(normalise, length),
        epochs=epochs,
    )
    return critic.beside(method, *(("initial",) if kl or chunks == "perplexity" else ()))
