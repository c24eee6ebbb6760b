//! The crates can be packaged: metadata, versions of path dependencies, and every included file.

use std::process::Command;

use brickwork_tests::binary::workspace;

#[test]
fn the_crates_can_be_packaged() {
    let target = tempfile::tempdir().expect("a folder can be made");
    let output = Command::new("cargo")
        .args([
            "package",
            "--no-verify",
            "--offline",
            "--allow-dirty",
            "--quiet",
        ])
        .args([
            "-p",
            "brickwork-macros",
            "-p",
            "brickwork",
            "-p",
            "brickwork-bridges",
            "-p",
            "brickwork-actors",
        ])
        .arg("--target-dir")
        .arg(target.path())
        .current_dir(workspace())
        .output()
        .expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    for name in [
        "brickwork-macros",
        "brickwork",
        "brickwork-bridges",
        "brickwork-actors",
    ] {
        let file = target.path().join(format!(
            "package/{name}-{}.crate",
            env!("CARGO_PKG_VERSION")
        ));
        assert!(file.exists(), "{}: {errors}", file.display());
    }
}
