"""Stands in for validation in tests of training."""


class Judge:
    """Stands in for validation: says given scores and keeps what it was shown."""

    def __init__(self, *scores):
        self.scores, self.shown = list(scores), []

    def __call__(self, network):
        from medstill.training.checkpoint import weights_hash

        assert not network.training
        self.shown.append(weights_hash(network))
        score = self.scores[min(len(self.shown), len(self.scores)) - 1]
        return score if isinstance(score, dict) else {"liver": score, "kidneys": score}
