"""Runs in VBench's environment: random weights where VBench's models lie, in the same layout.

`python -I checkpoints.py CACHE`; of CLIP a tiny one, of the others the very architectures.
"""

import shutil
import sys
from pathlib import Path

import torch

HUB = """
import torch


def dino_vitb16(pretrained=True, **kwargs):
    model = torch.nn.Sequential(
        torch.nn.AvgPool2d(56), torch.nn.Flatten(), torch.nn.Linear(48, 8)
    )
    if pretrained:
        model.load_state_dict(
            torch.hub.load_state_dict_from_url(
                url="https://dl.fbaipublicfiles.com/dino/none.pth", map_location="cpu"
            )
        )
    return model
"""


def main(cache: Path) -> None:
    torch.manual_seed(0)

    def place(name: str) -> Path:
        path = cache / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    import clip
    from clip.model import CLIP

    example = torch.zeros(1, 3, 224, 224), torch.zeros(1, 77, dtype=torch.long)
    for width, name in ((32, "ViT-B-32"), (768, "ViT-L-14")):
        model = CLIP(width, 224, 1, 64, 32, 77, 49408, 64, 1, 1).eval()
        torch.jit.trace(model, example, check_trace=False).save(place(f"clip_model/{name}.pt"))
    linear = torch.nn.Linear(768, 1)
    linear.bias.data.fill_(5.0)
    torch.save(linear.state_dict(), place("aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth"))

    place("dino_model/facebookresearch_dino_main/hubconf.py").write_text(HUB)
    torch.save(
        {f"2.{name}": value for name, value in torch.nn.Linear(48, 8).state_dict().items()},
        place("dino_model/dino_vitbase16_pretrain.pth"),
    )

    from easydict import EasyDict
    from vbench.third_party.RAFT.core.raft import RAFT

    raft = torch.nn.DataParallel(RAFT(EasyDict(small=False, mixed_precision=False)))
    torch.save(raft.state_dict(), place("raft_model/models/raft-things.pth"))

    import vbench.motion_smoothness as smoothness

    config = Path(smoothness.__file__).parent / "third_party/amt/cfgs/AMT-S.yaml"
    network = smoothness.build_from_cfg(smoothness.OmegaConf.load(config).network)
    torch.save({"state_dict": network.state_dict()}, place("amt_model/amt-s.pth"))

    from pyiqa.archs.musiq_arch import MUSIQ

    musiq = MUSIQ(pretrained=False)
    musiq.head.bias.data.fill_(50.0)
    torch.save(musiq.state_dict(), place("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth"))

    from vbench.third_party.umt.models.modeling_finetune import vit_large_patch16_224

    umt = vit_large_patch16_224(
        num_classes=400, all_frames=16, tubelet_size=1, use_mean_pooling=True, init_scale=0.001
    )
    torch.save(umt.state_dict(), place("umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth"))

    shutil.copy(
        Path(clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz"),
        place("ViCLIP/bpe_simple_vocab_16e6.txt.gz"),
    )
    from vbench.third_party.ViCLIP.simple_tokenizer import SimpleTokenizer
    from vbench.third_party.ViCLIP.viclip import ViCLIP

    tokenizer = SimpleTokenizer(str(place("ViCLIP/bpe_simple_vocab_16e6.txt.gz")))
    viclip = ViCLIP(tokenizer=tokenizer, pretrain=None)
    for parameter in viclip.parameters():  # it leaves some as the memory was
        torch.nn.init.normal_(parameter, std=0.02)
    torch.save({"model": viclip.state_dict()}, place("ViCLIP/ViClip-InternVid-10M-FLT.pth"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
