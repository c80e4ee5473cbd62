# SPDX-License-Identifier: Apache-2.0
"""A picture of build/bench.json: plot.py BENCH.json OUT.svg

A panel a case, a curve a peer: how many times as many copies a CPU second the product
delivers, over the fan-out. Payload 64. One is the peer itself.
"""
import json
import math
import sys

PEERS = {"bridge": "#1b6ac9", "mdb": "#c2541b", "ref": "#7a3fa0", "ref_sized": "#2b8a57"}
WORDS = {"bridge": "Linux bridge", "mdb": "bridge + VXLAN MDB", "ref": "published eBPF design",
         "ref_sized": "the same, hashes sized"}
CASES = ("local", "remote", "receive", "mixed", "burst")
PAYLOAD, WIDTH, HEIGHT, TOP, GAP = 64, 190, 260, 60, 46
TICKS = (0.5, 1, 2, 5, 10, 20, 50)


def y_of(ratio):
    low, high = math.log(0.5), math.log(100)
    return TOP + HEIGHT * (1 - (math.log(max(ratio, 0.5)) - low) / (high - low))


def text(x, y, words, size=11, anchor="middle", colour="#333"):
    return (f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" text-anchor="{anchor}" '
            f'fill="{colour}">{words}</text>')


def panel(rows, case, left, fanouts):
    def x_of(fanout):
        return left + WIDTH * (fanouts.index(fanout) + 0.5) / len(fanouts)

    out = [f'<rect x="{left}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" '
           'stroke="#999"/>', text(left + WIDTH / 2, TOP - 8, case, 13)]
    for tick in TICKS:
        out.append(f'<line x1="{left}" x2="{left + WIDTH}" y1="{y_of(tick):.1f}" '
                   f'y2="{y_of(tick):.1f}" stroke="{"#444" if tick == 1 else "#ddd"}"/>')
        out.append(text(left - 5, y_of(tick) + 4, f"{tick:g}×", 10, "end"))
    out += [text(x_of(n), TOP + HEIGHT + 16, n) for n in fanouts]
    for peer, colour in PEERS.items():
        points = sorted((r["fanout"], r["ratio"]) for r in rows if r["case"] == case and
                        r["peer"] == peer and r["payload"] == PAYLOAD)
        line = " ".join(f"{x_of(n):.1f},{y_of(ratio):.1f}" for n, ratio in points)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x_of(n):.1f}" cy="{y_of(ratio):.1f}" r="3" fill="{colour}">'
                f'<title>{case}, {n} receivers: {ratio:.2f}</title></circle>'
                for n, ratio in points]
    return out


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: plot.py BENCH.json OUT.svg")
    try:
        with open(sys.argv[1], encoding="utf-8") as f:
            rows = json.load(f)["rows"]
    except (OSError, ValueError, KeyError) as e:
        sys.exit(f"{sys.argv[1]}: {e}: run ./dev bench datapath first")
    fanouts = sorted({r["fanout"] for r in rows})
    total = len(CASES) * (WIDTH + GAP) + GAP
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" '
           f'height="{TOP + HEIGHT + 70}" font-family="sans-serif">',
           '<rect width="100%" height="100%" fill="white"/>',
           text(total / 2, 22, "Delivered copies a CPU second, mcmesh / peer, over the number of "
                "receivers (64-byte payload)", 14)]
    for i, case in enumerate(CASES):
        out += panel(rows, case, GAP + i * (WIDTH + GAP), fanouts)
    for i, (peer, colour) in enumerate(PEERS.items()):
        x = GAP + i * 200
        out.append(f'<rect x="{x}" y="{TOP + HEIGHT + 38}" width="14" height="4" '
                   f'fill="{colour}"/>')
        out.append(text(x + 20, TOP + HEIGHT + 44, WORDS[peer], 12, "start"))
    with open(sys.argv[2], "w", encoding="utf-8") as f:
        f.write("\n".join([*out, "</svg>"]) + "\n")
    print(f"wrote {sys.argv[2]}")


if __name__ == "__main__":
    main()
