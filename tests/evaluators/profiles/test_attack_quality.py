import numpy as np
import pytest

from evaluators import FGSM, L2, PGD, profile
from evaluators.profiles.attack_quality import attack_quality, quality_sentence


def test_each_attack_is_compared_with_the_worst_case_over_the_attacks_of_its_norm(conv, images):
    network, x = conv(), images(40)
    y = network(x).argmax(1)
    attacks = {"fgsm": FGSM(), "pgd": PGD(steps=20, step_size=0.1, random_start=False), "l2": PGD(norm=L2())}
    result = profile(network, x, y, attacks, {"linf": [0.01, 0.02, 0.05, 0.1], "l2": [0.1, 0.5]})
    shares = attack_quality(result, "linf")
    best = np.minimum(result.radii["fgsm"], result.radii["pgd"])
    area = {name: (0.1 - np.minimum(radii, 0.1)).sum() for name, radii in {**result.radii, "best": best}.items()}
    assert shares == pytest.approx({name: area[name] / area["best"] for name in ("fgsm", "pgd")})
    assert 0 < shares["fgsm"] <= 1
    assert attack_quality(result, "l2") == {}
    assert quality_sentence(result, "l2") is None
    assert quality_sentence(result, "linf") == (
        "Share of the best curve known (the worst case over these attacks) that each attack reaches: "
        f"fgsm {shares['fgsm']:.2f}, pgd {shares['pgd']:.2f}."
    )
