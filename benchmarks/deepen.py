"""Insert layers into an MLPatch that hardly change what it computes, to train a deeper one from it.

Each new 3 x 3 convolution copies its input. The activation that follows it changes large features
little, and the features of late layers are large: there the PSNR falls by some hundredths of a dB.
The new weights are the "init" of a training.
Run: python benchmarks/deepen.py WEIGHTS OUT.safetensors --after 4 5 6 --dilation 2
"""

from pathlib import Path

import torch
from common import arguments, network, parse, publish

from pnp_mlpatch.denoisers.mlpatch import MLPatch


def deepened(net, after, dilation):
    """A copy of a network with a layer that copies its input after each of the given ones."""
    dilations, origin = [], []
    for k, own in enumerate(net.config["dilations"]):
        new = list(after).count(k)
        dilations += [own] + [dilation] * new
        origin += [k] + [None] * new
    deeper, old = MLPatch(**{**net.config, "dilations": dilations}), net.state_dict()
    state = {name: value for name, value in old.items() if not name.startswith("stem.")}
    for k, source in enumerate(origin):
        for name, like in deeper.stem[k].state_dict().items():
            value = torch.zeros_like(like) if source is None else old[f"stem.{source}.{name}"]
            if source is None and name == "weight":
                value[range(len(value)), range(len(value)), 1, 1] = 1
            state[f"stem.{k}.{name}"] = value
    deeper.load_state_dict(state)
    return deeper


def main():
    parser = arguments(__doc__)
    parser.add_argument("weights", help="a shipped name or a path")
    parser.add_argument("out", type=Path)
    parser.add_argument("--after", type=int, nargs="+", default=[4, 5, 6], help="layers, from 0")
    parser.add_argument("--dilation", type=int, default=2)
    args = parse(parser)
    net = network(args.weights)
    if net.kind != "mlpatch" or net.config.get("residual"):
        parser.error("expected an MLPatch without residual pairs of layers")
    last = len(net.config["dilations"]) - 1
    if not all(0 <= k < last for k in args.after):
        parser.error(f"--after: layers of this network are 0 to {last - 1}, got {args.after}")
    deeper = deepened(net, args.after, args.dilation)
    deeper.save(args.out, net.card)
    x = torch.rand(1, net.channels, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        change = float((deeper(x, 0.1) - net(x, 0.1)).norm() / (net(x, 0.1) - x).norm())
    rows = [
        {"network": name, "field": n.field, "parameters": sum(p.numel() for p in n.parameters())}
        for name, n in (("before", net), ("after", deeper))
    ]
    publish(args, {f"Deepened; change on noise {change:.3f} of the residual": rows})


if __name__ == "__main__":
    main()
