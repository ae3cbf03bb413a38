//! Builds the kernel programs and their Rust skeleton.

use std::path::PathBuf;
use std::process::Command;

use libbpf_cargo::SkeletonBuilder;

const SOURCE: &str = "src/bpf/capture.bpf.c";

fn main() {
    println!("cargo:rerun-if-changed=src/bpf");
    let skeleton = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"))
        .join("capture.skel.rs");
    SkeletonBuilder::new()
        .source(SOURCE)
        // Atomic operations that return a value came with version 3 (Linux 5.12).
        .clang_args(
            include_arguments()
                .into_iter()
                .chain(["-mcpu=v3".to_owned()]),
        )
        .build_and_generate(&skeleton)
        .expect("clang builds the kernel programs (scripts/deps installs what it needs)");
}

/// Debian and its kin keep `asm/types.h` in a folder named after the architecture.
fn include_arguments() -> Vec<String> {
    let Ok(output) = Command::new("cc").arg("-print-multiarch").output() else {
        return Vec::new();
    };
    match String::from_utf8_lossy(&output.stdout).trim() {
        "" => Vec::new(),
        triple => vec![format!("-I/usr/include/{triple}")],
    }
}
