"""`kubediffusion completion`: the script that teaches a shell to complete our words."""

import click
from click import shell_completion

_HOW = {
    "bash": "  echo 'eval \"$(kubediffusion completion bash)\"' >> ~/.bashrc",
    "zsh": "  echo 'eval \"$(kubediffusion completion zsh)\"' >> ~/.zshrc",
    "fish": "  kubediffusion completion fish > ~/.config/fish/completions/kubediffusion.fish",
}


@click.command(epilog="\b\nTo have it in every new shell:\n" + "\n".join(_HOW.values()))
@click.argument("shell", type=click.Choice(sorted(_HOW)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL."""
    script = shell_completion.get_completion_class(shell)
    if script is None:
        raise click.UsageError(f"this click cannot complete for {shell!r}")
    root = context.find_root()
    click.echo(script(root.command, {}, "kubediffusion", "_KUBEDIFFUSION_COMPLETE").source())
