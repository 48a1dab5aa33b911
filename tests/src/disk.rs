//! Disks that fill up, or fail, below a gateway's state directory.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tokio::process::Command;

use crate::cluster::{root, source};

/// What a gateway's state lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// What the tests lie on.
    Sound,
    /// So many bytes of memory, seen by this gateway alone, and gone with it.
    Small {
        /// How many.
        bytes: u64,
    },
    /// One that fails [when told](crate::Gateway::break_disk).
    Faulty,
}

impl Disk {
    /// The beginning of a command line: the program that comes next has its state on this disk.
    pub(crate) fn shell(self, state: &Path, flag: &Path) -> Command {
        // With the signal ignored, a limit on file sizes is an error of `write`, as a full disk is.
        const RUN: &str = "trap '' XFSZ; exec \"$@\"";
        match self {
            Self::Sound => {
                let mut shell = Command::new("sh");
                shell.args(["-c", RUN, "sh"]);
                shell
            }
            Self::Small { bytes } => {
                std::fs::create_dir_all(state).expect("the test's directory is writable");
                let mount = format!("mount -t tmpfs -o mode=700,size={bytes} state \"$0\" && exec \"$@\"");
                let mut unshare = Command::new("unshare");
                unshare.arg(may_unshare()).args(["sh", "-c", &mount]).arg(state);
                unshare
            }
            Self::Faulty => {
                let mut shell = Command::new("sh");
                shell.args(["-c", RUN, "sh"]).env("LD_PRELOAD", faults());
                shell.env("PORTCULLIS_FAULT_DIR", state).env("PORTCULLIS_FAULT_FLAG", flag);
                shell
            }
        }
    }

    /// A directory as a process sees it that has mounts of its own.
    pub(crate) fn of_process(pid: u32, dir: &Path) -> PathBuf {
        let path = dir.strip_prefix("/").expect("an absolute path");
        Path::new("/proc").join(pid.to_string()).join("root").join(path)
    }
}

/// How `unshare(1)` makes mounts that only one program sees: as nobody in particular, or, where that is forbidden, as root.
fn may_unshare() -> &'static str {
    static HOW: OnceLock<&str> = OnceLock::new();
    HOW.get_or_init(|| {
        let works = |flags: &&str| {
            let mut unshare = std::process::Command::new("unshare");
            unshare.args([flags, "sh", "-c", "mount -t tmpfs none /mnt"]);
            unshare.output().is_ok_and(|output| output.status.success())
        };
        ["-Urm", "-m"].into_iter().find(works).expect(
            "A SMALL DISK CANNOT BE MOUNTED: IT TAKES `unshare` (util-linux), AND USER NAMESPACES OR ROOT",
        )
    })
}

/// The library that makes a disk fail, built from `faults/disk.c`.
fn faults() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let library = root().join("target/faults.so");
        let built = std::process::Command::new("cc")
            .args(["-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(source("faults/disk.c"))
            .arg("-ldl")
            .output()
            .expect("THERE IS NO C COMPILER: INSTALL `cc`");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        library
    });
    built.clone()
}
