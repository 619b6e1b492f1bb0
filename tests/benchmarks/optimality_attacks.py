"""The attacks of the benchmark of optimality: ours and those of foolbox, adv-lib and pyautoattack, by norm.

Minimum-norm attacks have as many steps as the budget of passes allows. Other settings are the defaults of the library, with
three exceptions. ALMA starts with a step of a given length, the best of a few on eight other images. The trust-region attack
of adv-lib adapts its steps. EAD decides by the norm L1.

Attacks that need an epsilon look for the smallest one. Ours do so with `radii`, and those of adv-lib with its own bisection.
APGD of pyautoattack gets a bisection with one epsilon for each image. In L1, where it takes a single epsilon, it gets a list
of epsilons, like PGD of foolbox.
"""

from __future__ import annotations

import importlib.util
from functools import partial

import torch

from evaluators import DDN, FMN, L2, DeepFool, EpsilonGrid, Linf, MinimumNormEnsemble, radii
from evaluators.attacks import APGD, FAB, FastPGD, Strong, SuperDeepFool, TrustRegion, margin
from evaluators.norms import L1

NORMS = {"linf": Linf(), "l2": L2(), "l1": L1()}
# Coarse epsilons between which attacks with an epsilon are bisected, and the smallest and largest one of lists.
GRIDS = {
    "linf": (1 / 255, 4 / 255, 16 / 255, 64 / 255, 1.0),
    "l2": (0.05, 0.2, 0.8, 3.2, 12.8),
    "l1": (0.5, 2.0, 8.0, 32.0, 128.0),
}
RANGES = {"linf": (0.25 / 255, 32 / 255), "l2": (0.02, 3.0), "l1": (0.2, 60.0)}
EXPONENTS = {"linf": float("inf"), "l2": 2, "l1": 1}
TOLERANCE = 0.002
LIBRARIES = {"ours": "evaluators", "foolbox": "foolbox", "adv-lib": "adv_lib", "pyautoattack": "pyautoattack"}


def attacks(norm):
    """Returns functions of a network, images (N, ...) and labels (N,) that run an attack, by (library, attack).

    Libraries that are not installed are left out.

    Args:
        norm: Name of a norm: linf, l2 or l1.
    """
    makers = {"ours": _ours, "foolbox": _foolbox, "adv-lib": _adv_lib, "pyautoattack": _pyautoattack}
    return {
        (library, attack): run
        for library, module in LIBRARIES.items()
        if importlib.util.find_spec(module)
        for attack, run in makers[library](norm).items()
    }


def _ours(name):
    norm = NORMS[name]
    chosen = {
        "MinimumNormEnsemble": MinimumNormEnsemble(norm=norm, steps=130 if name == "l1" else 300),
        "FMN": FMN(norm=norm, steps=990, candidates=10),
        "APGD": APGD(norm=norm, loss=margin, steps=70),
        "FastPGD": FastPGD(norm=norm),
        "Strong": Strong(norm=norm),
    }
    if name == "l1":
        chosen["FAB"] = FAB(steps=320)
    else:
        chosen |= {
            "SuperDeepFool": SuperDeepFool(norm=norm, steps=300),
            "TrustRegion": TrustRegion(norm=norm),
            "DeepFool": DeepFool(norm=norm),
        }
    if name == "l2":
        chosen["DDN"] = DDN(steps=990)
    grid = EpsilonGrid(epsilons=GRIDS[name], tolerance=TOLERANCE)

    def run(attack, network, x, y):
        radii(network, x, y, attack, grid, batch_size=len(x))

    return {attack: partial(run, settings) for attack, settings in chosen.items()}


def _foolbox(name):
    from foolbox import PyTorchModel
    from foolbox import attacks as fb

    low, high = RANGES[name]
    epsilons = torch.logspace(*torch.tensor([high, low]).log10().tolist(), 19).tolist()
    nearest = {
        "linf": {"DeepFool": fb.LinfDeepFoolAttack(steps=180), "FMN": fb.LInfFMNAttack(steps=1000)},
        "l2": {
            "DeepFool": fb.L2DeepFoolAttack(steps=180),
            "FMN": fb.L2FMNAttack(steps=1000),
            "CarliniWagner": fb.L2CarliniWagnerAttack(steps=110),
        },
        "l1": {"FMN": fb.L1FMNAttack(steps=1000), "EAD": fb.EADAttack(steps=110, decision_rule="L1")},
    }[name]
    pgd = {
        "linf": {"PGD": fb.LinfPGD(steps=51)},
        "l2": {"PGD": fb.L2PGD(steps=51)},
        "l1": {"SparseL1Descent": fb.SparseL1DescentAttack(steps=51)},
    }[name]

    def run(attack, sizes, network, x, y):
        attack(PyTorchModel(network, bounds=(0, 1), preprocessing=None), x, y, epsilons=sizes)

    return {attack: partial(run, settings, None) for attack, settings in nearest.items()} | {
        attack: partial(run, settings, epsilons) for attack, settings in pgd.items()
    }


def _adv_lib(name):
    from adv_lib import attacks as al
    from adv_lib.attacks.auto_pgd import minimal_apgd

    p = EXPONENTS[name]
    apgd = {"norm": p, "max_eps": RANGES[name][1], "binary_search_steps": 14, "use_large_reps": name == "l1"}
    chosen = {
        "FMN": partial(al.fmn, norm=p, steps=1000),
        "PDPGD": partial(al.pdpgd, norm=p, num_steps=1000),
        "FAB": partial(al.fab, norm=p, n_iter=180),
        "APGD-T": partial(minimal_apgd, **apgd, n_iter=25, targeted_version=True, num_targets=3),
    }
    if name == "linf":
        chosen |= {
            "TrustRegion": partial(al.tr, p=p, iter=600, adaptive=True),
        }
    if name == "l2":
        chosen |= {
            "DDN": partial(al.ddn, steps=1000, levels=None),
            "ALMA": partial(al.alma, num_steps=1000, distance="l2", init_lr_distance=0.1),
            "PDGD": partial(al.pdgd, num_steps=1000),
            "TrustRegion": partial(al.tr, p=p, iter=600, adaptive=True),
            "SuperDeepFool": al.sdf,
        }
    if name == "l1":
        chosen["ALMA"] = partial(al.alma, num_steps=1000, distance="l1", init_lr_distance=0.5)
    return {
        attack: partial(lambda f, network, x, y: f(network, x.clone(), y), function) for attack, function in chosen.items()
    }


def _pyautoattack(name):
    from pyautoattack.autopgd_base import APGDAttack
    from pyautoattack.fab_pt import FABAttack_PT

    norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[name]

    def apgd(network, x, y):
        def fooled(epsilon):
            attack = APGDAttack(network, n_iter=70, norm=norm, eps=epsilon, use_largereps=norm == "L1", device=x.device)
            return network(attack.perturb(x, y)).argmax(1) != y

        low, high = RANGES[name]
        if norm == "L1":
            for epsilon in torch.logspace(*torch.tensor([high, low]).log10().tolist(), 14).tolist():
                fooled(epsilon)
            return
        below, above = torch.full((len(x), 1, 1, 1), low / 4), torch.full((len(x), 1, 1, 1), high * 4)
        for _ in range(14):
            middle = (below * above).sqrt()
            found = fooled(middle).view(-1, 1, 1, 1)
            below, above = torch.where(found, below, middle), torch.where(found, middle, above)

    def fab(network, x, y):
        # With an eps of 0, it attacks every class for every image, instead of stopping at the first one that it reaches.
        FABAttack_PT(network, norm=norm, n_iter=70, eps=0.0, targeted=True, device=x.device).perturb(x, y)

    return {"APGD-CE": apgd, "FAB-T": fab}
