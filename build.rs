//! Records the compiler version, for `headcount_build_info`.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=HEADCOUNT_REVISION");
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(compiler).arg("--version").output();
    let version = version
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok());
    // The output looks like "rustc 1.95.0 (hash date)".
    let version = version.as_deref().and_then(|text| text.split(' ').nth(1));
    println!(
        "cargo::rustc-env=HEADCOUNT_RUSTC={}",
        version.unwrap_or("unknown")
    );
}
