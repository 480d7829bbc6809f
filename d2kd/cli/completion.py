"""`d2kd completion`."""

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL: bash or zsh.

    It completes commands, options, and the configs that d2kd ships.

    \b
    eval "$(d2kd completion bash)"      in ~/.bashrc
    eval "$(d2kd completion zsh)"       in ~/.zshrc, behind compinit
    """
    found = get_completion_class(shell)
    assert found is not None, shell  # click has both
    click.echo(found(context.find_root().command, {}, "d2kd", "_D2KD_COMPLETE").source())
