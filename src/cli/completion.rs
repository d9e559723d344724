//! `forebay completion`: scripts that complete commands and flags in a shell.

use clap::Command;
use clap_complete::Shell;

use super::{Failure, output};

pub(super) fn run(shell: Shell, mut command: Command) -> Result<(), Failure> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    // To memory, since the generator panics where a write fails.
    clap_complete::generate(shell, &mut command, name, &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
