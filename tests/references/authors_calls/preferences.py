"""Losses of preferences between answers."""

import functools

import jax.numpy as jnp
import numpy as np

import lossfns
from tests.references.authors_calls.call import ONE_DEVICE, Call, Code, log_probs, module

SMOOTHED = {"label_smoothing": 0.1}
FOUR = log_probs((5,), (5,), (5,), (5,), scale=4.0)
TWO = log_probs((5,), (5,), scale=4.0)


def _dpo(code, *four, **options):
    return code.preference_loss(*four, beta=0.1, **options)[0]


def _sequence_log_probs(code, logits, tokens, answer):
    return code._get_batch_logps(logits, tokens.masked_fill(~answer, -100))


def _sentences(rng):
    return rng.normal(size=(3, 5, 4)).round(3), rng.integers(0, 4, (3, 5)), rng.random((3, 5)) < 0.7


def _halo(code, **loss):
    """A trainer of HALOs with these options of its loss."""
    self = module(config=module(humanline=False, loss=module(**loss)), accelerator=ONE_DEVICE, policy_dtype=None)
    self.policy_dtype = code.torch.float64
    self.get_sequence_rewards = functools.partial(code.get_sequence_rewards, self)
    self.get_ratios = functools.partial(code.get_ratios, self)
    return self


def _kto(code, policy, reference, mismatched_policy, mismatched_reference):
    """The first three answers are desirable, the others not."""
    self = _halo(code, beta=0.1, desirable_weight=1.0, undesirable_weight=0.7)
    kl = mismatched_policy, mismatched_reference
    return code.loss(self, None, policy[:3], policy[3:], kl[0], reference[:3], reference[3:], kl[1])[0]


def _our_kto(policy, reference, mismatched_policy, mismatched_reference):
    sums = [x.sum(-1) for x in (policy, reference, mismatched_policy, mismatched_reference)]
    desirable = jnp.arange(len(sums[0])) < 3
    return lossfns.kto(sums[0], sums[1], desirable, *sums[2:], beta=0.1, undesirable_weight=0.7)


def _with_positive_kl(rng):
    """Log-probabilities of tokens; the mismatched answers have gained."""
    policy, reference, mismatched = log_probs((6, 3), (6, 3), (6, 3))(rng)
    return policy, reference, mismatched, mismatched - rng.gamma(2.0, size=(6, 3)).round(3)


def _trl_kto(code, policy, reference, mismatched_policy, mismatched_reference):
    sums = [x.sum(-1) for x in (policy, reference, mismatched_policy, mismatched_reference)]
    self = module(precompute_ref_logps=True, calculate_KL=True, accelerator=ONE_DEVICE, loss_type="kto", beta=0.1)
    self.desirable_weight, self.undesirable_weight = 1.0, 0.7
    return code._compute_loss(
        self=self,
        per_token_logps=policy,
        batch={"label": code.torch.arange(len(policy)) < 3, "ref_logps": sums[1], "ref_KL_logps": sums[3]},
        KL_logps=sums[2],
        outputs=module(logits=policy),
    )


def _trl_dpo(code, chosen, rejected, reference_chosen, reference_rejected, *, loss_type, **options):
    defaults = {"beta": 0.1, "label_smoothing": 0.1, "use_weighting": False, "aux_loss_enabled": False}
    self = module(f_divergence_type="reverse_kl", loss_types=[loss_type], loss_weights=[1.0], **(defaults | options))
    return code._compute_loss(
        self=self,
        chosen_logps=chosen,
        rejected_logps=rejected,
        ref_chosen_logps=reference_chosen,
        ref_rejected_logps=reference_rejected,
        completion_mask=code.torch.ones(2 * len(chosen), 1),
        device="cpu",
    )


def _by_trl(loss_type, row, ours, **options):
    theirs = functools.partial(_trl_dpo, loss_type=loss_type, **options)
    return Call(row, TRL_DPO, FOUR, theirs, lambda *four: ours(*four).mean(), (0, 1))


def _simpo(code, chosen, rejected):
    self = module(accelerator=ONE_DEVICE, label_smoothing=0.1, loss_type="sigmoid", beta=2.0, gamma_beta_ratio=0.25)
    return code.simpo_loss(self, chosen, rejected)[0]


def _cpo(code, chosen, rejected):
    return code.cpo_loss(module(loss_type="sigmoid", beta=0.1), chosen, rejected)[0]


def _trl_cpo(code, chosen, rejected):
    self = module(accelerator=ONE_DEVICE, label_smoothing=0.1, loss_type="sigmoid", beta=0.1, alpha=0.0)
    return code.cpo_loss(self, chosen, rejected)[0]


def _orpo(code, chosen, rejected):
    """Without the likelihood, and before the loss is rounded to bfloat16."""
    return -code.compute_loss(pos_prob=chosen, neg_prob=rejected)


def _sppo(code, *six):
    self = module(accelerator=ONE_DEVICE, loss_type="sppo", beta=0.01)
    return code.sppo_loss(self, *six[:4], chosen_probs_win=six[4], chosen_probs_lose=six[5])[0]


def _our_sppo(*six):
    return lossfns.sppo(*six[:4], beta=0.01, chosen_win_rate=six[4], rejected_win_rate=six[5])


def _nca(code, *four):
    return code.dpo_loss(module(beta=0.1, loss_type="NCA"), *four)[0]


def _exo(code, *four):
    """Their sequences are of logits: here of two tokens, of which the second has the given log-probability."""
    chosen, rejected, reference_chosen, reference_rejected = four

    def logits(chosen, rejected):
        p = code.torch.stack([chosen, rejected], 1).flatten()
        first = code.torch.stack([p, code.torch.log(-code.torch.expm1(p))], -1)
        return code.torch.stack([first, first], 1)

    code.LogSigmoid, code.LogSoftmax = code.nn.LogSigmoid, code.nn.LogSoftmax
    rows = 2 * len(chosen)
    return code.exact_loss(
        logits(reference_chosen, reference_rejected),
        logits(chosen, rejected),
        code.torch.ones(rows, 2, dtype=int),
        code.torch.zeros(rows, 2, dtype=int),
        code.torch.ones(rows, 1, dtype=int),
        code.torch.tensor([[1.0], [0.0]]).repeat(len(chosen), 1),
        beta_model=0.5,
        loss_type="exo-pref",
    )


def _our_exo(*four):
    """The authors' target is 1 and e^-10, ours 1 - e^-10 and e^-10: they leave out q log(1 - e^-10)."""
    epsilon = np.exp(-10)
    z = 0.5 * ((four[0] - four[2]) - (four[1] - four[3]))
    missing = jnp.log1p(-epsilon) / (1 + jnp.exp(-z))
    return (lossfns.exo(*four, beta=0.5, label_smoothing=epsilon) + missing).mean()


def _bco(code, policy, reference, shift):
    """The first three answers are desirable; the shift stays as it is."""
    self = module(beta=0.1, running=module(mean=shift), match_underlying_distribution=False)
    rows = policy[:3], policy[3:], reference[:3], reference[3:]
    return code.bco_loss(self, *rows, None, None, do_train=False)[0]


def _our_bco(policy, reference, shift):
    return lossfns.bco(policy, reference, jnp.arange(len(policy)) < 3, beta=0.1, shift=shift)


TRL_COMMIT = "f2cd57710ae345ea6428ae95363267fcf38a3dc8"
MITCHELL = Code(
    "eric-mitchell/direct-preference-optimization",
    "f8b8c0f49dc92a430bae41585f9d467d3618fe2f",
    {"trainers.py": ["preference_loss", "_get_batch_logps"]},
)
HALOS_KTO = Code(
    "ContextualAI/HALOs",
    "4831988636b4cbc1c30c0bce78df568cf0f8103b",
    {"train/trainers.py": ["BasicTrainer.get_ratios", "BasicTrainer.get_sequence_rewards", "KTOTrainer.loss"]},
)
TRL_KTO = Code(
    "huggingface/trl",
    TRL_COMMIT,
    {"trl/trainer/kto_trainer.py": ["KTOTrainer._compute_loss: completion_logps .. losses"]},
)
TRL_DPO = Code(
    "huggingface/trl",
    TRL_COMMIT,
    {"trl/trainer/dpo_trainer.py": ["DPOTrainer._compute_loss: chosen_logratios .. loss"]},
)
TRL_CPO = Code("huggingface/trl", TRL_COMMIT, {"trl/experimental/cpo/cpo_trainer.py": ["CPOTrainer.cpo_loss"]})
ALMA = Code(
    "fe1ixxu/ALMA", "28997eb26954d6c7a1f9140bf87f314609973972", {"utils/cpo_trainer.py": ["CPOTrainer.cpo_loss"]}
)
TRL_BCO = Code("huggingface/trl", TRL_COMMIT, {"trl/experimental/bco/bco_trainer.py": ["BCOTrainer.bco_loss"]})
SIMPO = Code(
    "princeton-nlp/SimPO",
    "1b3e8f3528a23bce3da514a2dce8ea7490d4bc75",
    {"scripts/simpo_trainer.py": ["SimPOTrainer.simpo_loss"]},
)
ORPO = Code(
    "xfactlab/orpo",
    "208d2d648068e700cbb1ae0e8320b1dc99b014ec",
    {"src/orpo_trainer.py": ["ORPOTrainer.compute_loss: log_odds .. ratio"]},
)
EXO = Code(
    "haozheji/exact-optimization",
    "a8ab36011efa7a9910242eda6940d586330fff1a",
    {"src/align_stage/loss.py": ["exact_loss"]},
)
NCA = Code(
    "thu-ml/Noise-Contrastive-Alignment",
    "cbb9248be907c7a746d48b8329d6b24c36d717c6",
    {"preference_trainer.py": ["NCATrainer_pairwise.dpo_loss"]},
)
SPPO = Code("uclaml/SPPO", "5e61c4e90822fe526d8bbe1a50a6e85a85c30911", {"sppo/trainer.py": ["SPPOTrainer.sppo_loss"]})

CALLS = {
    "dpo": Call("dpo", MITCHELL, FOUR, _dpo, lossfns.dpo, (0, 1)),
    "dpo, smoothed": Call(
        "dpo",
        MITCHELL,
        FOUR,
        functools.partial(_dpo, **SMOOTHED),
        functools.partial(lossfns.dpo, **SMOOTHED),
        (0, 1),
    ),
    "ipo": Call("ipo", MITCHELL, FOUR, functools.partial(_dpo, ipo=True), lossfns.ipo, (0, 1)),
    "sequence_log_probs": Call(
        "sequence_log_probs",
        MITCHELL,
        _sentences,
        _sequence_log_probs,
        lambda logits, tokens, answer: lossfns.sequence_log_probs(logits, tokens, where=answer),
    ),
    "kto": Call("kto", HALOS_KTO, _with_positive_kl, _kto, _our_kto),
    "kto where the divergence is estimated below 0": Call(
        "kto", HALOS_KTO, lambda rng: [_with_positive_kl(rng)[i] for i in (0, 1, 3, 2)], _kto, _our_kto
    ),
    "kto of TRL": Call("kto", TRL_KTO, _with_positive_kl, _trl_kto, _our_kto),
    "dpo of TRL": _by_trl("sigmoid", "dpo", lossfns.dpo),
    "ipo of TRL": _by_trl("ipo", "ipo", lossfns.ipo),
    "robust_dpo of TRL": _by_trl("robust", "robust_dpo", lossfns.robust_dpo),
    "exo of TRL": _by_trl("exo_pair", "exo", functools.partial(lossfns.exo, **SMOOTHED)),
    "nca of TRL": _by_trl("nca_pair", "nca", lossfns.nca),
    "apo of TRL, zero": _by_trl("apo_zero", "apo", lossfns.apo),
    "apo of TRL, down": _by_trl("apo_down", "apo", functools.partial(lossfns.apo, form="down")),
    # Theirs is the sum of both squares, ours their mean.
    "sppo of TRL": _by_trl("sppo_hard", "sppo", lambda *four: 2 * lossfns.sppo(*four, beta=0.1)),
    "simpo": Call("simpo", SIMPO, log_probs((5,), (5,)), _simpo, functools.partial(lossfns.simpo, **SMOOTHED), (0, 1)),
    "cpo": Call("cpo", ALMA, TWO, _cpo, functools.partial(lossfns.cpo, nll_weight=0.0), (0, 1)),
    "cpo of TRL": Call(
        "cpo", TRL_CPO, TWO, _trl_cpo, functools.partial(lossfns.cpo, nll_weight=0.0, **SMOOTHED), (0, 1)
    ),
    "orpo": Call(
        "orpo",
        ORPO,
        log_probs((5,), (5,)),
        _orpo,
        functools.partial(lossfns.orpo, weight=1.0, with_nll=False),
        (0, 1),
    ),
    "sppo": Call(
        "sppo",
        SPPO,
        lambda rng: [*FOUR(rng), rng.random(5).round(3), rng.random(5).round(3)],
        _sppo,
        _our_sppo,
        (0, 1),
    ),
    "nca": Call("nca", NCA, FOUR, _nca, lossfns.nca, (0, 1)),
    "exo": Call("exo", EXO, log_probs((4,), (4,), (4,), (4,)), _exo, _our_exo, (0, 1)),
    "bco of TRL": Call(
        "bco", TRL_BCO, lambda rng: [*log_probs((5,), (5,), scale=4.0)(rng), np.array(0.3)], _bco, _our_bco
    ),
}
