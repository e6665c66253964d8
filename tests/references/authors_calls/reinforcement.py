"""Policy gradients, with groups of answers."""

import collections
import functools

import jax.numpy as jnp

import lossfns
from tests.references.authors_calls.call import ONE_DEVICE, Call, Code, module
from tests.references.authors_calls.preferences import TRL_COMMIT

GROUPS, ANSWERS, TOKENS = 2, 3, 4


def _answers(rng):
    """Log-probabilities now, then and under the reference, rewards, and which tokens there are: at least one."""
    new = -rng.gamma(2.0, size=(GROUPS, ANSWERS, TOKENS)).round(3)
    old, reference = new + rng.normal(scale=0.3, size=(2, *new.shape)).round(3)
    lengths = rng.integers(1, TOKENS + 1, (GROUPS, ANSWERS, 1))
    return new, old, reference, rng.normal(size=(GROUPS, ANSWERS)).round(3), jnp.arange(TOKENS) < lengths


def _rewards(rng):
    return [rng.normal(size=(GROUPS, ANSWERS)).round(3)]


def _mean(values, where, normalizer):
    """The mean that a term of these values takes."""
    weights = lossfns.token_weights(where, normalizer=normalizer)
    return (values * weights).sum() / weights.sum()


def _trl(code, new, old, reference, rewards, where, *, loss_type, level="token", **options):
    """TRL's trainer from rewards to loss."""
    new, old, reference, mask = (x.flatten(0, 1) for x in (new, old, reference, where.to(new.dtype)))
    settings = {"epsilon_low": 0.2, "epsilon_high": 0.2, "beta": 0.0, "scale_rewards": "group"} | options
    self = module(
        **settings,
        accelerator=ONE_DEVICE,
        multi_objective_aggregation="sum_then_normalize",
        reward_weights=code.torch.ones(1),
        importance_sampling_level=level,
        loss_type=loss_type,
        off_policy_mask_threshold=None,
        use_vllm=False,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=8,
        args=module(use_bias_correction_kl=False, delta=None),
        model=module(training=True),
    )
    advantages = code._generate_and_score_completions(
        self=self,
        rewards_per_func=rewards.reshape(-1, 1),
        num_generations=ANSWERS,
        prompts=rewards.flatten(),
        device="cpu",
    )
    return code._compute_loss(
        self=self,
        per_token_logps=new,
        old_per_token_logps=old,
        advantages=advantages[:, None],
        mask=mask,
        entropy_mask=None,
        inputs={"ref_per_token_logps": reference, "num_items_in_batch": mask.sum()},
    )


def _by_trl(row, ours, normalizer, *, with_reference=False, **theirs):
    def our_mean(new, old, reference, rewards, where):
        options = {"reference_log_probs": reference} if with_reference else {}
        return _mean(ours(new, old, rewards, where=where, **options), where, normalizer)

    return Call(row, TRL_GRPO, _answers, functools.partial(_trl, **theirs), our_mean)


def _halos(code, new, old, reference, rewards, where):
    """The old policy is the reference's, and the advantages are the rewards."""
    loss = module(epsilon=0.2, beta=0.04)
    self = module(config=module(humanline=False, loss=loss), accelerator=ONE_DEVICE, policy_dtype=new.dtype)
    self.get_ratios = functools.partial(code.get_ratios, self)
    new, reference, where = (x.flatten(0, 1) for x in (new, reference, where))
    labels = code.F.pad(code.torch.where(where, 0, -100), (1, 0))
    return code.loss(self, {"target_labels": labels}, new, reference, rewards.flatten(), rewards.flatten())[0]


def _our_halos(new, old, reference, rewards, where):
    values = lossfns.grpo(new, reference, rewards, reference_log_probs=reference, advantages="given", where=where)
    return _mean(values, where, "global_tokens")


def _verl_config(code, **options):
    code.verl_F, code.defaultdict = code, collections.defaultdict
    code.AlgoConfig, code.ActorConfig = dict, type(module())
    settings = {"clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.28} | options
    dual_clip = settings.pop("dual_clip", 1e30)
    return module(**settings, get=lambda name, default: dual_clip, global_batch_info={})


def _verl(code, new, old, reference, rewards, where, *, loss, mode, **options):
    """verl from rewards to loss."""
    config = _verl_config(code, **options)
    new, old, mask = (x.flatten(0, 1) for x in (new, old, where.to(new.dtype)))
    scores = code.torch.cat([rewards.reshape(-1, 1), code.torch.zeros(len(mask), TOKENS - 1)], 1)
    groups = code.np.repeat(range(GROUPS), ANSWERS)
    advantages, _ = code.compute_grpo_outcome_advantage(scores, mask, groups)
    return getattr(code, loss)(old, new, advantages, mask, mode, config)[0]


def _by_verl(row, ours, normalizer, loss, mode, scale=1.0, **options):
    def our_mean(new, old, reference, rewards, where):
        return scale * _mean(ours(new, old, rewards, epsilon=1e-6, where=where), where, normalizer)

    theirs = functools.partial(_verl, loss=loss, mode=mode, **options)
    # They add 1e-8 to a number of tokens, and so does the tolerance.
    return Call(row, VERL, _answers, theirs, our_mean, tolerance=2e-8)


def _ppo(code, new, old, reference, rewards, where):
    config = _verl_config(code, dual_clip=1.5)
    old, advantages = new.detach() + 3 * (old - new).detach(), rewards[..., None].expand(new.shape)
    return code.compute_policy_loss_vanilla(old, new, advantages, where.to(new.dtype), "token-mean", config)[0]


def _our_ppo(new, old, reference, rewards, where):
    old, advantages = new + 3 * (old - new), jnp.broadcast_to(rewards[..., None], new.shape)
    values = lossfns.ppo_clip(new, old, advantages, clip_high=0.28, dual_clip=1.5, where=where)
    return values.sum() / where.sum()


def _value_clip(code, values, old, reference, returns, where):
    _verl_config(code)
    returns = returns[..., None].expand(values.shape)
    return code.compute_value_loss(values, returns, old, where.to(values.dtype), 0.2)[0]


def _our_value_clip(values, old, reference, returns, where):
    values = lossfns.value_clip(values, old, jnp.broadcast_to(returns[..., None], values.shape), where=where)
    return values.sum() / where.sum()


def _gae(code, values, rewards, where):
    """What they return next is these advantages, standardised over the batch."""
    _verl_config(code)
    returns = code.compute_gae_advantage_return(rewards, values, where.to(values.dtype), 0.9, 0.8)[1]
    return (returns - values) * where


def _episodes(rng):
    """Values, rewards and steps that count, with gaps."""
    return *rng.normal(size=(2, 4, 5)).round(3), rng.random((4, 5)) < 0.7


def _oat(code, new, old, reference, rewards, where):
    """Dr. GRPO from rewards to loss; an answer may have 8 tokens."""
    args = module(num_samples=ANSWERS, critic_type="drgrpo", cliprange=0.2, tis_c=None, reinforce_update=False)
    advantages = code.compute_monte_carlo_advantages(module(args=args), rewards.reshape(-1, 1), None)
    new, old, where = (x.flatten(0, 1) for x in (new, old, where))
    self, stats = module(args=args), collections.defaultdict(list)
    surrogate = code.learning_step(
        self=self,
        args=args,
        new_logps=new,
        mb_logps=old,
        mb_actor_logps=old,
        mb_advantage=advantages[:, None],
        mb_response_masks=where,
        kl_v1_sum=0,
        kl_v2_sum=0,
        act_num_token=0,
        stats=stats,
    )
    return code.masked_sum(surrogate, where, axis=1, constant_normalizer=8).mean()


def _our_dr_grpo(new, old, reference, rewards, where):
    return _mean(lossfns.dr_grpo(new, old, rewards, length=8, where=where), where, "constant")


def _halos_advantages(code, rewards):
    code.defaultdict = collections.defaultdict
    batch = {"prompt_id": code.np.repeat(range(GROUPS), ANSWERS).tolist(), "score": rewards.flatten().tolist()}
    return code.get_batch_metrics(self=module(accelerator=ONE_DEVICE), batch=batch).reshape(rewards.shape)


def _verl_advantages(code, rewards):
    _verl_config(code)
    groups, ones = code.np.repeat(range(GROUPS), ANSWERS), code.torch.ones(rewards.numel(), 1)
    return code.compute_grpo_outcome_advantage(rewards.clone().reshape(-1, 1), ones, groups)[0].reshape(rewards.shape)


def _dr_advantages(code, rewards, *, critic_type):
    args = module(num_samples=ANSWERS, critic_type=critic_type)
    return code.compute_monte_carlo_advantages(module(args=args), rewards.reshape(-1, 1), None).reshape(rewards.shape)


def _rloo(code, rewards):
    advantages = code._generate_and_score_completions(
        self=module(normalize_advantages=False, accelerator=ONE_DEVICE),
        rewards=rewards.flatten(),
        num_generations=ANSWERS,
        prompts=rewards.flatten(),
    )
    return advantages.reshape(rewards.shape)


TRL_GRPO = Code(
    "huggingface/trl",
    TRL_COMMIT,
    {
        "trl/trainer/utils.py": ["nanstd"],
        "trl/trainer/grpo_trainer.py": [
            "GRPOTrainer._generate_and_score_completions: unscorable_mask .. advantages",
            "GRPOTrainer._compute_loss: log_ratio .. loss",
        ],
    },
)
TRL_RLOO = Code(
    "huggingface/trl",
    TRL_COMMIT,
    {
        "trl/trainer/utils.py": ["nanstd"],
        "trl/trainer/rloo_trainer.py": ["RLOOTrainer._generate_and_score_completions: grouped_rewards .. advantages"],
    },
)
VERL = Code(
    "volcengine/verl",
    "b178a3cd56f58b2d502255daba591e92833930a7",
    {
        "verl/utils/torch_functional.py": ["clip_by_value", "masked_sum", "masked_mean", "masked_var", "masked_whiten"],
        "verl/trainer/ppo/core_algos.py": [
            "compute_gae_advantage_return",
            "compute_grpo_outcome_advantage",
            "agg_loss",
            "compute_policy_loss_vanilla",
            "compute_policy_loss_gspo",
            "compute_policy_loss_cispo",
            "compute_value_loss",
            "kl_penalty",
            "kl_penalty_forward",
        ],
    },
)
HALOS = Code(
    "ContextualAI/HALOs",
    "4831988636b4cbc1c30c0bce78df568cf0f8103b",
    {
        "train/utils.py": ["masked_mean"],
        "train/trainers.py": [
            "BasicTrainer.get_ratios",
            "GRPOTrainer.loss",
            "GRPOTrainer.get_batch_metrics: prompt_ids .. advantages",
        ],
    },
)
DR_GRPO = Code(
    "sail-sg/understand-r1-zero",
    "dfca49dd460ee7cc8e4a5a162c876a7fd6993b87",
    {"train_zero_math.py": ["ZeroMathLearner.compute_monte_carlo_advantages"]},
)
OAT = Code(
    "sail-sg/oat",
    "c1a074c320ff5ca9fe9a4f669bf05208e2f310be",
    {
        "oat/utils/ops.py": ["masked_sum"],
        "oat/algorithms/ppo.py": [
            "PPOLearner.compute_monte_carlo_advantages",
            "PPOLearner.learning_step: logprobs_diff .. pg_loss_max",
        ],
    },
)

CALLS = {
    "grpo of TRL": _by_trl("grpo", lossfns.grpo, "sequence", loss_type="grpo"),
    "grpo of TRL, with a reference": _by_trl(
        "grpo with a reference", lossfns.grpo, "sequence", with_reference=True, loss_type="grpo", beta=0.04
    ),
    "grpo of TRL, over the batch's tokens": _by_trl("grpo", lossfns.grpo, "batch_tokens", loss_type="bnpo"),
    "dr_grpo of TRL": _by_trl(
        "dr_grpo",
        functools.partial(lossfns.dr_grpo, length=8),
        "constant",
        loss_type="dr_grpo",
        scale_rewards="none",
    ),
    "dapo of TRL": _by_trl("dapo", lossfns.dapo, "global_tokens", loss_type="dapo", epsilon_high=0.28),
    # TRL's bound is the bound itself, ours its distance from 1.
    "cispo of TRL": _by_trl(
        "cispo", functools.partial(lossfns.cispo, clip_high=0.1), "global_tokens", loss_type="cispo", epsilon_high=1.1
    ),
    "gspo of TRL": _by_trl(
        "gspo",
        functools.partial(lossfns.gspo, clip_low=0.05, clip_high=0.1),
        "sequence",
        loss_type="grpo",
        level="sequence",
        epsilon_low=0.05,
        epsilon_high=0.1,
    ),
    "grpo of HALOs": Call("grpo with a reference", HALOS, _answers, _halos, _our_halos),
    "grpo of verl": _by_verl(
        "grpo",
        functools.partial(lossfns.grpo, clip_high=0.28),
        "sequence",
        "compute_policy_loss_vanilla",
        "seq-mean-token-mean",
    ),
    "dapo of verl": _by_verl("dapo", lossfns.dapo, "global_tokens", "compute_policy_loss_vanilla", "token-mean"),
    # Theirs is the sum over answers, ours the mean.
    "grpo of verl, over a constant": _by_verl(
        "grpo",
        functools.partial(lossfns.grpo, clip_high=0.28, normalizer="constant"),
        "constant",
        "compute_policy_loss_vanilla",
        "seq-mean-token-sum-norm",
        scale=GROUPS * ANSWERS,
    ),
    "gspo of verl": _by_verl(
        "gspo",
        functools.partial(lossfns.gspo, clip_low=0.05, clip_high=0.1),
        "sequence",
        "compute_policy_loss_gspo",
        "seq-mean-token-mean",
        clip_ratio_low=0.05,
        clip_ratio_high=0.1,
    ),
    "cispo of verl": _by_verl(
        "cispo",
        functools.partial(lossfns.cispo, clip_low=0.2, clip_high=0.28),
        "global_tokens",
        "compute_policy_loss_cispo",
        "token-mean",
    ),
    "dr_grpo": Call("dr_grpo", OAT, _answers, _oat, _our_dr_grpo),
    "ppo_clip of verl": Call("ppo_clip", VERL, _answers, _ppo, _our_ppo, tolerance=2e-8),
    "value_clip of verl": Call("value_clip", VERL, _answers, _value_clip, _our_value_clip),
    "gae of verl": Call(
        "gae",
        VERL,
        _episodes,
        _gae,
        lambda values, rewards, where: lossfns.gae(rewards, values, discount=0.9, decay=0.8, where=where),
        (),
    ),
    "group_advantages of verl": Call(
        "group_advantages",
        VERL,
        _rewards,
        _verl_advantages,
        functools.partial(lossfns.group_advantages, epsilon=1e-6),
        (),
    ),
    "group_advantages of HALOs": Call(
        "group_advantages",
        HALOS,
        _rewards,
        _halos_advantages,
        functools.partial(lossfns.group_advantages, ddof=0, epsilon=1e-2),
        (),
    ),
    "group_advantages of Dr. GRPO": Call(
        "group_advantages",
        DR_GRPO,
        _rewards,
        functools.partial(_dr_advantages, critic_type="drgrpo"),
        functools.partial(lossfns.group_advantages, scale=False),
        (),
    ),
    "group_advantages of Dr. GRPO's baseline": Call(
        "group_advantages",
        DR_GRPO,
        _rewards,
        functools.partial(_dr_advantages, critic_type="grpo"),
        functools.partial(lossfns.group_advantages, epsilon=1e-8),
        (),
    ),
    "rloo of TRL": Call("rloo", TRL_RLOO, _rewards, _rloo, lossfns.rloo, ()),
} | {
    f"kl_estimate of verl, {kind}": Call(
        "kl_estimate",
        VERL,
        lambda rng: _answers(rng)[:2],
        lambda code, new, old, kind=kind: code.kl_penalty(new, old, kind),
        functools.partial(lossfns.kl_estimate, kind=kind),
    )
    for kind in ("k1", "k2", "k3")
}
