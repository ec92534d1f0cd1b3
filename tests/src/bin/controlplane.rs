//! Builds the control plane that the tests and the demo run on, unless it is there, and says where its programs are.

use std::io::Write;

use anyhow::Result;
use muster_tests::control_plane::binaries;

fn main() -> Result<()> {
    let found = binaries::find()?;
    let mut out = std::io::stdout();
    for program in [found.etcd, found.apiserver, found.controller_manager] {
        writeln!(out, "{}", program.display())?;
    }
    Ok(())
}
