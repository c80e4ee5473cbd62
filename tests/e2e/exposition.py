# SPDX-License-Identifier: Apache-2.0
"""Prometheus text format 0.0.4, strictly: what is wrong raises ValueError."""
import re

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)\Z")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|\Z)')
TYPES = ("counter", "gauge", "histogram")


def labels_of(text):
    labels, at = {}, 0
    while text and at < len(text):
        found = LABEL.match(text, at)
        if not found or found[1] in labels:
            raise ValueError(f"labels: {text}")
        labels[found[1]] = found[2]
        at = found.end()
    return labels


class Family:
    def __init__(self, name, help_):
        self.name, self.help, self.type, self.samples = name, help_, None, []

    def owns(self, name):
        if self.type == "histogram":
            return name in (f"{self.name}_bucket", f"{self.name}_sum", f"{self.name}_count")
        return name == self.name

    def value(self, suffix="", **labels):
        """The sum of the samples that have these labels."""
        return sum(v for name, has, v in self.samples
                   if name == self.name + suffix and labels.items() <= has.items())

    def check(self):
        if self.type not in TYPES:
            raise ValueError(f"{self.name} has no type")
        if not self.samples:
            raise ValueError(f"{self.name} has no sample")
        seen = [(name, tuple(sorted(labels.items()))) for name, labels, _ in self.samples]
        if len(seen) != len(set(seen)):
            raise ValueError(f"{self.name} has a sample twice")
        if self.type == "counter" and (not self.name.endswith("_total") or
                                       any(v < 0 for _, _, v in self.samples)):
            raise ValueError(f"{self.name} is no counter")
        if self.type == "histogram":
            buckets = [(float(labels["le"].replace("+Inf", "inf")), v)
                       for name, labels, v in self.samples if name.endswith("_bucket")]
            counts = [v for _, v in buckets]
            if buckets != sorted(buckets) or counts != sorted(counts) or \
                    buckets[-1] != (float("inf"), self.value("_count")):
                raise ValueError(f"{self.name} is no histogram")


def parse(text):
    """{family name: Family}"""
    families, last = {}, None
    if not text.endswith("\n"):
        raise ValueError("the last line has no end")
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            name, _, help_ = line[7:].partition(" ")
            if not NAME.match(name) or not help_ or name in families:
                raise ValueError(line)
            last = families[name] = Family(name, help_)
        elif line.startswith("# TYPE "):
            name, _, type_ = line[7:].partition(" ")
            if not last or name != last.name or last.type or last.samples:
                raise ValueError(line)
            last.type = type_
        else:
            found = SAMPLE.match(line)
            if not found or not last or not last.owns(found[1]):
                raise ValueError(line)
            last.samples.append((found[1], labels_of(found[2]), float(found[3])))
    for family in families.values():
        family.check()
    return families
