//! The shipped binary and the programs of the examples, built from the current sources.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Returns the path of `brickwork`, built from the current sources in the profile of this test.
///
/// # Panics
/// If the build fails.
pub fn brickwork() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| build("brickwork-actors", "brickwork"))
        .clone()
}

/// Returns the path of the program of `examples/3-shop`, built in the same way.
///
/// # Panics
/// If the build fails.
pub fn shop() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| build("brickwork-examples", "shop"))
        .clone()
}

/// Returns the path of the program of `examples/5-accounts`, built in the same way.
///
/// # Panics
/// If the build fails.
pub fn accounts() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| build("brickwork-examples", "accounts"))
        .clone()
}

/// Returns the path of the program of `examples/7-api`, built in the same way.
///
/// # Panics
/// If the build fails.
pub fn todos() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| build("brickwork-examples", "todos"))
        .clone()
}

/// Returns the root of the workspace.
pub fn workspace() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("the tests are in a room of their own")
}

fn build(package: &str, program: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    // TARGET/PROFILE/deps/TEST
    let profile = test.ancestors().nth(2).expect("tests are in deps/");
    let name = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    // Build scripts that see cargo's variables about the test's own crate would take every crate
    // for changed.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            build.env_remove(&*name);
        }
    }
    // `tests/run-one` sets it for libtest; build scripts would take it for a change.
    build.env_remove("RUSTC_BOOTSTRAP");
    let built = build
        .args(["build", "--quiet", "--offline", "--profile", name])
        .args(["-p", package, "--bin", program])
        .arg("--target-dir")
        .arg(profile.parent().expect("a profile is in the target folder"))
        .current_dir(workspace())
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the binary can't be built");
    profile.join(format!("{program}{}", std::env::consts::EXE_SUFFIX))
}
