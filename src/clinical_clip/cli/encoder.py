"""``clinical-clip encoder``: which encoders there are, and whether one works here."""

from __future__ import annotations

import typer

from clinical_clip.cli.options import EncoderName, PrecisionName, precision_of

__all__ = ["encoder_app"]

encoder_app = typer.Typer(no_args_is_help=True, help="List the shipped encoders; check one on this machine.")


@encoder_app.command("list")
def list_encoders() -> None:
    """Name the encoders that come with the package."""
    from clinical_clip.embed.encoders import open_encoder, shipped_encoders

    for name in shipped_encoders():
        encoder = open_encoder(name)
        print(f"{name}  width {encoder.width}  {encoder.preprocessing.size} px  sha256 {encoder.digest[:12]}")


@encoder_app.command("check")
def check(*, encoder: EncoderName = "imagenet-lite0", precision: PrecisionName = "auto") -> None:
    """Prove an encoder against its original's stored answers.

    Fails if the cosine to the original falls under .999 in f32, or .98 in bf16.
    """
    from clinical_clip.embed.encoders import open_encoder
    from clinical_clip.errors import WeightsError

    model = open_encoder(encoder, precision=precision_of(precision))
    answer = model.self_test()
    print(f"{model.name} in {model.runs_as}: cosine to the original ≥ {answer.cosine_min:.5f}")
    if answer.cosine_min < (0.999 if model.runs_as == "f32" else 0.98):
        raise WeightsError(
            f"the encoder strays from its original (cosine {answer.cosine_min:.5f})",
            where=model.name,
            hint="try --precision f32; if it stays, install the package again",
        )
