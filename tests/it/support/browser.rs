//! A real browser: Chromium without a window, driven over WebDriver by the driver that comes with it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, test_kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use thirtyfour::prelude::*;
use thirtyfour::{LoggingPrefsLogLevel, WindowHandle};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::program::mortal;
use super::{PATIENCE, Replica, eventually};

/// A browser is a dozen processes: more of them at once only make each other slow.
static TURNS: Semaphore = Semaphore::const_new(2);

/// Without a window, and without anything that a browser does by itself. Over a pipe rather than a port the browser
/// ends with its driver, however that ends. Hosts of the documentation are this machine, and their certificates new.
const FLAGS: [&str; 13] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
    "--window-size=1280,1000",
    "--host-resolver-rules=MAP *.example.com 127.0.0.1",
    "--ignore-certificate-errors",
];

/// Keys as WebDriver has them.
pub const ENTER: &str = "\u{e007}";
pub const ESCAPE: &str = "\u{e00c}";
const CONTROL: &str = "\u{e009}";
const RELEASE: &str = "\u{e000}";

/// A browser with a profile of its own.
pub struct Browser {
    web: WebDriver,
    driver: Driver,
    _profile: TempDir,
    _turn: SemaphorePermit<'static>,
}

impl Browser {
    pub async fn start() -> Self {
        let turn = TURNS.acquire().await.unwrap();
        let profile = tempfile::Builder::new().prefix("tidings-browser-").tempdir().unwrap();
        let driver = Driver::start(&profile);
        let mut wanted = DesiredCapabilities::chrome();
        for flag in FLAGS {
            wanted.add_arg(flag).unwrap();
        }
        wanted.add_arg(&format!("--user-data-dir={}", profile.path().display())).unwrap();
        wanted.set_browser_log_level(LoggingPrefsLogLevel::All).unwrap();
        super::choose_cryptography();
        let web = WebDriver::new(format!("http://127.0.0.1:{}", driver.port), wanted).await;
        let web = web.unwrap_or_else(|e| panic!("Chromium does not start ({INSTALL}): {e}"));
        Self { web, driver, _profile: profile, _turn: turn }
    }

    /// Opens a replica's page in a new tab, and waits until it is connected.
    pub async fn open(&self, replica: &Replica, query: &str) -> Tab<'_> {
        let tab = self.visit(&format!("{}/{query}", replica.url())).await;
        tab.shows("device-phase", "Live").await;
        tab
    }

    /// Opens whatever is at an address in a new tab.
    pub async fn visit(&self, url: &str) -> Tab<'_> {
        let handle = self.web.new_tab().await.unwrap();
        let tab = Tab { browser: self, handle };
        tab.here().await.goto(url).await.unwrap();
        tab
    }

    /// What the console said since it was asked last, and who said it: `javascript` and `console-api` what the scripts
    /// did, `security` what the policy forbade, `network` what failed on the way.
    pub async fn console(&self) -> Vec<String> {
        let said = self.web.browser_log().await.unwrap();
        said.into_iter()
            .map(|entry| format!("{}: {}", entry.source.unwrap_or_default(), entry.message))
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Asked to end the session by itself, the client would wait for an answer that may not come.
        let _ = self.web.clone().leak();
        self.driver.kill();
        // The browser notices in a moment. Its profile is in use until then.
        let process = self.web.capabilities().get("goog:processID").and_then(Value::as_i64);
        let process = process.and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let started = Instant::now();
        while process.is_some_and(|id| test_kill_process(id).is_ok()) && started.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A page of the browser. Its parts are named by their ids.
pub struct Tab<'a> {
    browser: &'a Browser,
    handle: WindowHandle,
}

impl Tab<'_> {
    /// The browser, turned to this tab.
    async fn here(&self) -> &WebDriver {
        self.browser.web.switch_to_window(self.handle.clone()).await.unwrap();
        &self.browser.web
    }

    /// Minimizes the window, with all of its tabs, so that nobody sees them.
    pub async fn minimize(&self) {
        self.here().await.minimize_window().await.unwrap();
    }

    /// Shows the window again.
    pub async fn restore(&self) {
        self.here().await.set_window_rect(0, 0, 1280, 1000).await.unwrap();
    }

    /// Runs a script in the page and returns what it returns.
    pub async fn evaluate(&self, script: &str, argument: &str) -> Value {
        let returned = self.here().await.execute(script, vec![json!(argument)]).await;
        returned.unwrap_or_else(|e| panic!("{script}: {e}")).json().clone()
    }

    /// The text of a part as it is seen: none when the part is not to be seen.
    pub async fn text(&self, id: &str) -> String {
        let script = "const part = document.getElementById(arguments[0]); return part.checkVisibility() ? part.innerText : ''";
        self.evaluate(script, id).await.as_str().unwrap().to_owned()
    }

    /// Waits until a part is seen with these words in it.
    pub async fn shows(&self, id: &str, words: &str) {
        eventually(&format!("#{id} shows `{words}`"), async || self.text(id).await.contains(words)).await;
    }

    /// Waits until a part is not seen any more.
    pub async fn hides(&self, id: &str) {
        eventually(&format!("#{id} is hidden"), async || self.text(id).await.is_empty()).await;
    }

    /// Clicks as a user does: where the part is, once it is there.
    pub async fn click(&self, id: &str) {
        self.here().await.find(By::Id(id)).await.unwrap().click().await.unwrap();
    }

    /// Chooses a type in the form.
    pub async fn choose(&self, kind: &str) {
        let label = By::Css(format!("label[data-type={kind}]"));
        self.here().await.find(label).await.unwrap().click().await.unwrap();
    }

    /// Types into a part.
    pub async fn press(&self, id: &str, keys: &str) {
        self.here().await.find(By::Id(id)).await.unwrap().send_keys(keys).await.unwrap();
    }

    /// Types into a field, in place of what is there.
    pub async fn fill(&self, id: &str, text: &str) {
        self.press(id, &format!("{CONTROL}a{RELEASE}{text}")).await;
    }

    /// Sends a broadcast by the form.
    pub async fn send(&self, message: &str) {
        self.fill("creator-message", message).await;
        self.click("creator-send").await;
    }

    /// Clears what is on air, and says yes to the question.
    pub async fn clear(&self) {
        self.click("creator-clear").await;
        self.click("question-yes").await;
    }

    /// What is seen of the page, as a PNG.
    pub async fn screenshot(&self) -> Vec<u8> {
        self.here().await.screenshot_as_png().await.unwrap()
    }

    /// Gives the page so much room, as a device with a screen of that width does.
    pub async fn resize(&self, width: u32) {
        let tools = self.here().await.cdp();
        tools.emulation().set_device_metrics_override(width, 800, 1.0, width < 500).await.unwrap();
    }
}

const INSTALL: &str =
    "tests/install.sh installs it as root on Debian; else: apt-get install chromium chromium-driver";

/// The driver's process, on a port that the system chose.
struct Driver {
    child: Child,
    port: u16,
}

impl Driver {
    fn start(profile: &TempDir) -> Self {
        // It listens at the same port on two addresses. The port that it gets for the first one may be taken on the second.
        (0..5).find_map(|_| Self::try_start(profile)).unwrap_or_else(|| {
            panic!("chromedriver does not start: {INSTALL}");
        })
    }

    fn try_start(profile: &TempDir) -> Option<Self> {
        let mut command = mortal("chromedriver");
        command.arg("--port=0").env("HOME", profile.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = said
            .find_map(|line| line.rsplit_once("successfully on port ")?.1.trim_end_matches('.').parse().ok());
        let Some(port) = port else {
            let _ = child.wait();
            return None;
        };
        // What else it says has to go somewhere, or it would wait.
        std::thread::spawn(move || said.for_each(drop));
        Some(Self { child, port })
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.kill();
    }
}
