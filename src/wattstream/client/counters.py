"""An engine's /metrics, read and compared with what they were before."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Sample = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Counters:
    """The samples of one scrape, by name without `wattstream_` and labels."""

    samples: Mapping[Sample, float]

    @classmethod
    def parse(cls, text: str) -> "Counters":
        """Read Prometheus text.

        Raises:
            ValueError: It is none.
        """
        return cls(
            {
                (sample.name.removeprefix("wattstream_"), frozenset(sample.labels.items())): float(
                    sample.value
                )
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
        )

    def since(self, before: "Counters") -> "Counters":
        """Return what was counted since another scrape; all of it where the engine is new."""
        began_anew = any(
            self.samples.get(sample, 0) < value
            for sample, value in before.samples.items()
            if sample[0].endswith("_total")
        )
        if began_anew:
            return self
        return Counters(
            {
                sample: value - before.samples.get(sample, 0)
                for sample, value in self.samples.items()
            }
        )

    def total(self, name: str) -> float:
        """Return the sum over all labels."""
        return sum(value for (found, _), value in self.samples.items() if found == name)

    def by(self, name: str, label: str) -> dict[str, float]:
        """Return the sums by the values of a label, the greatest first."""
        sums: dict[str, float] = {}
        for (found, labels), value in self.samples.items():
            if found == name:
                key = dict(labels).get(label, "")
                sums[key] = sums.get(key, 0) + value
        return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))

    def quantile(self, name: str, share: float, **labels: str) -> float | None:
        """Return a quantile of a histogram, linear within a bucket; None where nothing was seen.

        Source: Prometheus documentation, "histogram_quantile()".
        """
        sums: dict[float, float] = {}
        for (found, has), value in self.samples.items():
            if found == f"{name}_bucket" and labels.items() <= dict(has).items():
                bound = float(dict(has)["le"])
                sums[bound] = sums.get(bound, 0) + value
        bounds = sorted(sums)
        if not bounds or sums[bounds[-1]] <= 0:
            return None
        wanted = share * sums[bounds[-1]]
        low, below = 0.0, 0.0
        for bound in bounds:
            if sums[bound] >= wanted:
                if math.isinf(bound):
                    return low
                inside = sums[bound] - below
                return low + (bound - low) * ((wanted - below) / inside if inside else 1.0)
            low, below = bound, sums[bound]
        return low
