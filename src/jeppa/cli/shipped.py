"""`jeppa models`: the models that come with the package."""

from jeppa.cli.terminal import say


def models() -> None:
    """List the models that come with jeppa; `--model NAME` takes each of them, offline."""
    from jeppa.shipped import SHIPPED

    for model in SHIPPED:
        figures = ", ".join(f"{name} {value:g}" for name, value in model.figures.items())
        beside = "" if model.vae == model.name else f", on the latents of {model.vae}"
        say(f"{model.name}: {model.about}")
        say(f"  {model.kind}{beside}, {model.parameters / 1e6:.2f} M parameters, {model.megabytes:.1f} MB")
        say(f"  trained on {model.data} ({model.licence})")
        say(f"  on held-out pictures: {figures}")
        say(f"  card: {model.folder / 'README.md'}")
