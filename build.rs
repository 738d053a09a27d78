//! Generates the CRI wire types, and builds the shim that the agent carries inside it.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_AGENT").is_none() {
        return Ok(());
    }
    #[cfg(feature = "agent")]
    wire()?;
    shim()
}

/// `proto/` to Rust: the messages and the two services, and a descriptor set for the test of the contract.
#[cfg(feature = "agent")]
fn wire() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.open_file("api.proto")?;
    std::fs::write(out_dir()?.join("cri.bin"), compiler.encode_file_descriptor_set())?;
    // The comments become those of the generated types.
    let descriptors = compiler.include_source_info(true).file_descriptor_set();
    tonic_prost_build::configure()
        .generate_default_stubs(true)
        .build_transport(true)
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}

/// Builds `orlop-shim` for a static target of its own. It cannot be a plain dependency: it has another target (musl,
/// not position independent) and other features than the agent.
fn shim() -> Result<(), Box<dyn Error>> {
    for path in ["src/bin", "src/lib.rs", "src/runtime", "src/shim", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={path}");
    }
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let target = format!("{arch}-unknown-linux-musl");
    let target_dir = out_dir()?.join("shim");
    let mut cargo = Command::new(env::var_os("CARGO").ok_or("CARGO is not set")?);
    // The outer build's flags and wrappers are for the outer build.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let outer =
            name.starts_with("CARGO_FEATURE_") || name.starts_with("CARGO_CFG_") || name.starts_with("CARGO_PKG_");
        let flags = matches!(
            name.as_str(),
            "CARGO_ENCODED_RUSTFLAGS" | "RUSTFLAGS" | "RUSTC_WRAPPER" | "RUSTC_WORKSPACE_WRAPPER"
        );
        if outer || flags || name == "CARGO_TARGET_DIR" || name == "CARGO_MAKEFLAGS" || name == "MAKEFLAGS" {
            cargo.env_remove(name);
        }
    }
    let status = cargo
        .env("RUSTFLAGS", "-C relocation-model=static -C target-feature=+crt-static")
        .args(["build", "--bin", "orlop-shim", "--no-default-features", "--features", "shim", "--profile", "shim"])
        .args(["--target", &target, "--target-dir"])
        .arg(&target_dir)
        .status()?;
    if !status.success() {
        return Err(format!("building the shim failed; is its target installed? (rustup target add {target})").into());
    }
    let built = target_dir.join(&target).join("shim").join("orlop-shim");
    std::fs::copy(&built, out_dir()?.join("orlop-shim"))?;
    Ok(())
}

fn out_dir() -> Result<PathBuf, Box<dyn Error>> {
    Ok(Path::new(&env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?).to_path_buf())
}
