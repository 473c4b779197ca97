//! A terminal that a process may write to, and a test looks at.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::thread::{self, JoinHandle};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

pub struct Terminal {
    /// The side of the process.
    inner: OwnedFd,
    /// Reads the other side, for as long as anybody has the inner one.
    reading: JoinHandle<Vec<u8>>,
}

impl Terminal {
    /// One of 100 columns.
    pub fn open() -> Self {
        let outer = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&outer).unwrap();
        unlockpt(&outer).unwrap();
        let name = ptsname(&outer, Vec::new()).unwrap();
        let inner = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        tcsetwinsize(&inner, Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let reading = thread::spawn(move || {
            let mut shown = Vec::new();
            // It ends with an error when nobody has the inner side any more.
            let _ = File::from(outer).read_to_end(&mut shown);
            shown
        });
        Self { inner, reading }
    }

    /// For a process to write to.
    pub fn stdio(&self) -> Stdio {
        self.inner.try_clone().unwrap().into()
    }

    /// Everything that was written; whoever writes must have ended.
    pub fn shown(self) -> String {
        drop(self.inner);
        String::from_utf8_lossy(&self.reading.join().unwrap()).into_owned()
    }
}
