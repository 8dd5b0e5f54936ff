"""Networks of our own: shapes, parameters as published, learning; and what smp's can do beside."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from geounet.config.card import OWN_NETWORKS, TileSpec
from geounet.errors import ModelError
from geounet.models.network import build, give_context, margin, stride
from geounet.models.networks.attention import AttentionUnet, Gate
from geounet.models.networks.blocks import mirrored
from geounet.models.networks.classic import Unet2015
from geounet.models.networks.residual import ResUnet, Unit
from geounet.models.networks.table import NETWORKS
from tests.support.local import card
from tests.unit.test_models_network import CASES

CLASSES: dict[str, Any] = {"Unet2015": Unet2015, "AttentionUnet": AttentionUnet, "ResUnet": ResUnet}


def own(architecture: str, **arguments: Any) -> Any:
    return card(architecture=architecture, encoder="", arguments=arguments, tile=TileSpec(multiple_of=1))


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_the_table_is_complete_and_true() -> None:
    assert set(CLASSES) == set(OWN_NETWORKS) == {n for n, entry in NETWORKS.items() if entry.library == "geounet"}
    for name, network in CLASSES.items():
        defaults = {k: p.default for k, p in inspect.signature(network).parameters.items() if p.default is not p.empty}
        assert NETWORKS[name].arguments == ", ".join(f"{k}={v}" for k, v in defaults.items())
        assert NETWORKS[name].depth == defaults["depth"]
        assert NETWORKS[name].stride == stride(own(name)) == 2 ** defaults["depth"]


def test_the_docs_name_every_network_and_argument() -> None:
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    for name, network in CLASSES.items():
        (line,) = (line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        for argument in inspect.signature(network).parameters.keys() - {"in_channels", "classes"}:
            assert f"`{argument}`" in line
    assert [name for name in NETWORKS if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    ("architecture", "arguments", "rows", "cols"),
    [
        ("Unet2015", {"width": 3, "depth": 1}, 2, 6),
        ("Unet2015", {"width": 5, "depth": 3, "normalisation": "batch"}, 24, 8),
        ("Unet2015", {"width": 4, "depth": 5}, 32, 64),
        ("Unet2015", {"width": 3, "depth": 1, "padding": "valid"}, 2, 6),
        ("Unet2015", {"width": 3, "depth": 2, "padding": "valid", "normalisation": "batch"}, 12, 8),
        ("Unet2015", {"width": 2, "depth": 3, "padding": "valid"}, 8, 24),
        ("Unet2015", {"width": 2, "depth": 4, "padding": "valid"}, 16, 48),
        ("Unet2015", {"width": 1, "depth": 5, "padding": "valid"}, 32, 32),
        ("AttentionUnet", {"width": 3, "depth": 1}, 6, 2),
        ("AttentionUnet", {"width": 5, "depth": 3}, 24, 8),
        ("AttentionUnet", {"width": 4, "depth": 5, "dropout": 0.3}, 32, 64),
        ("ResUnet", {"width": 3, "depth": 1}, 6, 2),
        ("ResUnet", {"width": 5, "depth": 2}, 12, 4),
        ("ResUnet", {"width": 4, "depth": 5, "dropout": 0.3}, 32, 64),
    ],
)
def test_shapes(architecture: str, arguments: dict[str, Any], rows: int, cols: int) -> None:
    made = own(architecture, **arguments)
    network = build(made).eval()
    assert rows % stride(made) == cols % stride(made) == 0
    with torch.inference_mode():
        assert network(torch.randn(2, 3, rows, cols)).shape == (2, 4, rows, cols)
        if beside := margin(made):
            give_context(network)
            assert network(torch.randn(1, 3, rows + 2 * beside, cols + 2 * beside)).shape == (1, 4, rows, cols)
        with pytest.raises(RuntimeError, match=f"expected multiples of {stride(made)}"):
            network(torch.randn(1, 3, rows + 1 + 2 * beside, cols + 2 * beside))


def test_the_unet_of_2015_has_the_parameters_of_its_figure() -> None:
    """Fig. 1 of the paper, by hand: one band, two classes."""
    levels = [64, 128, 256, 512, 1024]
    layers = [(a, b, 3) for a, b in zip([1, *levels], levels, strict=False)] + [(n, n, 3) for n in levels]
    for a, b in ((1024, 512), (512, 256), (256, 128), (128, 64)):
        layers += [(a, b, 2), (2 * b, b, 3), (b, b, 3)]
    layers.append((64, 2, 1))
    expected = sum(a * b * k * k + b for a, b, k in layers)
    for padding in ("same", "valid"):
        network = Unet2015(1, 2, padding=padding)
        assert parameters(network) == expected
    assert expected == pytest.approx(31.0e6, rel=2e-3)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == 23  # "In total the network has 23 convolutional layers."


def test_valid_convolutions_have_the_published_geometry() -> None:
    """An input tile of 572 px gives 388 px (Fig. 1); 384 of them are a multiple of 16."""
    network = Unet2015(1, 2, width=1, padding="valid").eval()
    give_context(network)
    seen = []
    network.decoder[-1].register_forward_hook(lambda _m, _i, output: seen.append(output.shape[-1]))
    with torch.inference_mode():
        output = network(torch.zeros(1, 1, 572, 572))
    assert seen == [388]
    assert output.shape[-1] == 384 == 572 - 2 * network.context


def test_valid_convolutions_see_the_same_from_every_tile() -> None:
    """Where tiles overlap, they agree: nothing depends on where a tile ends. With padding they do not."""
    torch.manual_seed(1)
    image = torch.randn(1, 3, 128, 128)
    differences = {}
    for padding in ("valid", "same"):
        made = own("Unet2015", width=4, depth=2, padding=padding, normalisation="batch")
        network = build(made).eval()
        m = margin(made)
        give_context(network)
        with torch.inference_mode():
            whole = network(image[..., 24 - m : 104 + m, 24 - m : 104 + m])
            part = network(image[..., 44 - m : 76 + m, 40 - m : 80 + m])
        differences[padding] = float((part - whole[..., 20:52, 16:56]).abs().max() / whole.std())
    assert differences["valid"] < 1e-5
    assert differences["same"] > 0.01


def test_as_built_valid_convolutions_mirror_the_tile() -> None:
    network = Unet2015(2, 3, width=2, depth=2, padding="valid").eval()
    x = torch.randn(1, 2, 8, 12)
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (network.context,) * 2, (network.context,) * 2), mode="reflect")
    with torch.inference_mode():
        expected = network(x)
        give_context(network)
        torch.testing.assert_close(network(torch.from_numpy(padded)), expected)


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (7, 3)])
def test_mirroring_is_that_of_numpy(shape: tuple[int, int]) -> None:
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(1, 1, *shape)
    for by in (0, 1, 4, 11):
        expected = np.pad(x, ((0, 0), (0, 0), (by, by), (by, by)), mode="reflect")
        np.testing.assert_array_equal(mirrored(torch.from_numpy(x), by).numpy(), expected)


def in_space(network: nn.Module) -> int:
    """Weights of the convolutions of a plane network, were it three-dimensional: each kernel is as deep as wide."""
    return sum(m.weight.numel() * m.kernel_size[0] for m in network.modules() if isinstance(m, nn.Conv2d))


def test_the_attention_unet_has_the_parameters_of_its_paper() -> None:
    """Table 1 of the paper: 5.88 million for the U-Net beneath, in three dimensions with 16 to 256 channels."""
    network = AttentionUnet(1, 4, width=16)
    gates = in_space(network.gates) + in_space(network.gating)
    assert in_space(network) - gates - 4 * 16 == pytest.approx(5.88e6, rel=1e-3)
    by_hand = sum(x * x * 8 + 2 * x * x + x + x * x for x in (32, 64, 128)) + 256 * 256
    assert gates == by_hand
    assert len(network.gates) == 3  # none for the finest skip connection


def test_gates_are_additive() -> None:
    """Eq. 1 with einsum in place of convolutions, at the grid of the gating signal."""
    torch.manual_seed(0)
    gate = Gate(4, 6).eval()
    x, g = torch.randn(1, 4, 6, 8), torch.randn(1, 6, 3, 4)
    blocks = x.reshape(1, 4, 3, 2, 4, 2)
    q = torch.einsum("ncyhxw,kchw->nkyx", blocks, gate.theta.weight)
    q = q + torch.einsum("ncyx,kc->nkyx", g, gate.phi.weight[..., 0, 0]) + gate.phi.bias[:, None, None]
    alpha = torch.sigmoid(torch.einsum("nkyx,k->nyx", q.relu(), gate.psi.weight[0, :, 0, 0]) + gate.psi.bias)
    with torch.inference_mode():
        found = gate.coefficients(x, g)
    assert found.shape == (1, 1, 6, 8)
    # Bilinear weights of an upsampling by 2 are 3/4 and 1/4: the mean over interior 2 x 2 px needs all neighbours.
    top, below = alpha[0, 0], alpha[0, 1]
    along = 0.75 * top[:-1] + 0.25 * top[1:], 0.75 * below[:-1] + 0.25 * below[1:]
    torch.testing.assert_close(found[0, 0, 1, 1:-1:2], 0.75 * along[0] + 0.25 * along[1])


def test_a_closed_gate_passes_nothing_of_the_skip_connection() -> None:
    gate = Gate(4, 6).eval()
    nn.init.constant_(gate.psi.bias, -1e4)
    nn.init.zeros_(gate.psi.weight)
    g = torch.randn(1, 6, 4, 4)
    with torch.inference_mode():
        torch.testing.assert_close(gate(torch.randn(1, 4, 8, 8), g), gate(torch.zeros(1, 4, 8, 8), g))


def test_the_resunet_has_the_parameters_of_its_paper() -> None:
    """Table I of the paper: 15 convolutions, 7.8 million parameters; shortcuts are not in the table."""
    network = ResUnet(3, 1)
    listed = [m for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and "shortcut" not in n]
    assert len(listed) == 15
    table = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512), (768, 256),
             (256, 256), (384, 128), (128, 128), (192, 64), (64, 64)]  # fmt: skip
    assert [(m.in_channels, m.out_channels) for m in listed] == [*table, (64, 1)]
    assert sum(m.weight.numel() for m in listed) == sum(9 * a * b for a, b in table) + 64
    assert round(sum(m.weight.numel() for m in listed) / 1e6, 1) == 7.8
    shortcuts = sum(m.weight.numel() for n, m in network.named_modules() if n.endswith("shortcut"))
    assert shortcuts == sum(a * b for a, b in table[::2])


def test_a_residual_unit_without_its_body_is_its_shortcut() -> None:
    unit = Unit(3, 5, stride=2).eval()
    nn.init.zeros_(unit.body[-1].weight)
    nn.init.zeros_(unit.body[-1].bias)
    x = torch.randn(1, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(
            unit(x), torch.einsum("ncyx,kc->nkyx", x[..., ::2, ::2], unit.shortcut.weight[..., 0, 0])
        )


def test_parameters_of_smp_networks_are_those_of_their_papers() -> None:
    """LinkNet: 11.5 million with its ResNet-18; SegFormer-B0: 3.8 million, for the 150 classes of ADE20K."""
    assert parameters(build(card(architecture="Linknet", channels=1))) == pytest.approx(11.5e6, rel=0.02)
    wide = card(architecture="Segformer", encoder="mit_b0", channels=1)
    network = build(wide)
    head = parameters(network.segmentation_head)
    assert parameters(network) - head + 150 * head == pytest.approx(3.8e6, rel=0.02)


def picture(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch whose classes follow from its first band."""
    torch.manual_seed(0)
    coarse = torch.randn(2, 3, side // 8, side // 8)
    x = nn.functional.interpolate(coarse, scale_factor=8) + 0.1 * torch.randn(2, 3, side, side)
    return x, (x[:, 0] > 0).long() + (x[:, 0] > 1).long()


OWN = [
    own("Unet2015", width=8, depth=3, dropout=0.0),
    own("Unet2015", width=8, depth=2, padding="valid", normalisation="batch"),
    own("AttentionUnet", width=8, depth=3),
    own("ResUnet", width=8),
]
SMP = [
    *(card(architecture=name, encoder=encoder, arguments=arguments) for name, (encoder, arguments, _) in CASES.items()),
    card(encoder="tu-mobilenetv3_small_050", arguments={"decoder_attention_type": "scse"}),
]


def named(made: Any) -> str:
    return f"{made.architecture}-{'-'.join(str(v) for v in made.arguments.values())[:24]}"


@pytest.mark.parametrize("made", [*OWN, *SMP], ids=named)
def test_a_step_lowers_the_loss_as_its_gradient_says(made: Any) -> None:
    """Down the gradient, so far that to first order 0.1 % of the loss goes."""
    torch.manual_seed(1)
    network = build(made).train()
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    x, y = picture(CASES.get(made.architecture, ("", {}, 64))[2])
    before = nn.functional.cross_entropy(network(x), y)
    before.backward()
    loss = float(before.detach())
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert len(gradients) > 0.5 * len(list(network.parameters()))  # PSPNet leaves half of its encoder alone
    step = 0.001 * loss / sum(float(g.square().sum()) for g in gradients)
    with torch.no_grad():
        for p in network.parameters():
            if p.grad is not None:
                p -= step * p.grad
        lowered = 1 - float(nn.functional.cross_entropy(network(x), y)) / loss
    assert 0.0003 < lowered < 0.0015


@pytest.mark.parametrize("made", OWN, ids=named)
def test_our_own_networks_learn(made: Any) -> None:
    torch.manual_seed(1)
    network = build(made).train()
    x, y = picture(64)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(network(x), y)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.35 * losses[0]
    assert losses[-1] < 0.5  # saying the classes' shares everywhere gives about 1


def test_smp_decoders_have_attention_where_asked() -> None:
    from segmentation_models_pytorch.base.modules import SCSEModule

    found = {}
    for name in ("Unet", "UnetPlusPlus"):
        for kind in (None, "scse"):
            # smp's attention narrows its channels by 16, so none may have fewer.
            arguments = {"encoder_depth": 3, "decoder_channels": [32, 32, 16], "decoder_attention_type": kind}
            network = build(card(architecture=name, arguments=arguments)).eval()
            found[name, kind] = sum(isinstance(m, SCSEModule) for m in network.modules())
            with torch.inference_mode():
                assert network(torch.randn(1, 3, 32, 32)).shape == (1, 4, 32, 32)
    assert found["Unet", None] == found["UnetPlusPlus", None] == 0
    assert found["Unet", "scse"] > 0 < found["UnetPlusPlus", "scse"]
    with pytest.raises(ModelError, match="smp cannot build Unet"):
        build(card(arguments={"decoder_attention_type": "sxse"}))


@pytest.mark.parametrize(
    ("architecture", "arguments", "words"),
    [
        ("Unet2015", {"widht": 8}, r"arguments.widht: did you mean width\? Unet2015 takes width=64, depth=4, padding"),
        ("Unet2015", {"width": 0}, r"arguments.width: found 0, expected a whole number from 1 to 256"),
        ("Unet2015", {"depth": "4"}, r"arguments.depth: found '4', expected a whole number from 1 to 7"),
        ("Unet2015", {"padding": "reflect"}, r"arguments.padding: found 'reflect', expected same or valid"),
        ("Unet2015", {"normalisation": True}, r"arguments.normalisation: found True, expected none or batch"),
        ("AttentionUnet", {"dropout": 1}, r"arguments.dropout: found 1, expected a number from 0 to below 1"),
        ("ResUnet", {"encoder_depth": 3}, r"arguments.encoder_depth: .*ResUnet takes width=64, depth=3"),
        ("ResUnet", {"classes": 3}, r"arguments.classes cannot be given"),
    ],
)
def test_refusals(architecture: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        build(own(architecture, **arguments))


def test_near_names_are_found() -> None:
    with pytest.raises(ModelError, match=r"did you mean AttentionUnet\?"):
        build(card(architecture="Attention-Unet"))
