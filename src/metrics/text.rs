//! The two text formats of `/metrics`: OpenMetrics 1.0 for those who ask for it, and the format 0.0.4 of Prometheus, which
//! everything that reads metrics understands.

use std::fmt::Write as _;

use super::Metrics;
use super::collector::ScrapeValues;

/// How the metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format of Prometheus, version 0.0.4.
    Plain,
}

impl Format {
    /// The format that a request asks for with these values of the header `Accept` (RFC 9110, section 12.5.1): OpenMetrics
    /// for those who name it and do not prefer plain text; plain text for all others.
    pub fn accepted<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let ranges: Vec<_> = accept.into_iter().flat_map(|line| line.split(',')).map(Range::parse).collect();
        let quality = |of: &dyn Fn(&Range<'_>) -> bool| {
            ranges
                .iter()
                .filter(|range| of(range))
                .map(|range| range.quality)
                .fold(None, |best: Option<f32>, next| Some(best.map_or(next, |best| best.max(next))))
        };
        let open_metrics = quality(&|range| {
            range.media_type.eq_ignore_ascii_case("application/openmetrics-text")
                && range.version.is_none_or(|version| ["1.0.0", "0.0.1"].contains(&version))
        });
        // The most specific range counts.
        let plain = ["text/plain", "text/*", "*/*"]
            .iter()
            .find_map(|name| quality(&|range| range.media_type.eq_ignore_ascii_case(name)))
            .unwrap_or(0.0);
        match open_metrics {
            Some(quality) if quality > 0.0 && quality >= plain => Self::OpenMetrics,
            _ => Self::Plain,
        }
    }

    /// The `Content-Type` of an answer.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// A media range of `Accept`.
struct Range<'a> {
    media_type: &'a str,
    version: Option<&'a str>,
    /// From 0 to 1; what cannot be read counts as 1.
    quality: f32,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let mut range = Self { media_type, version: None, quality: 1.0 };
        for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
            match name {
                "q" | "Q" => range.quality = value.parse().unwrap_or(1.0),
                "version" => range.version = Some(value.trim_matches('"')),
                _ => {}
            }
        }
        range
    }
}

impl Metrics {
    /// What `/metrics` answers in a format, with what is read at this moment.
    pub fn in_format(&self, format: Format, values: &ScrapeValues) -> Result<String, std::fmt::Error> {
        let text = self.open_metrics(values)?;
        match format {
            Format::OpenMetrics => Ok(text),
            Format::Plain => plain(&text),
        }
    }
}

/// The same in the format 0.0.4. It declares a metric under the name of its samples, and knows neither infos, units nor an
/// end; samples and labels are written alike.
fn plain(open_metrics: &str) -> Result<String, std::fmt::Error> {
    let mut text = String::with_capacity(open_metrics.len());
    // The help of a family stands before its type, which its name there depends on.
    let mut help = "";
    for line in open_metrics.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        if let Some(of_family) = comment.strip_prefix("HELP ") {
            help = of_family;
        } else if let Some((name, kind)) = comment.strip_prefix("TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            let help = help.strip_prefix(name).unwrap_or_default();
            write!(text, "# HELP {name}{suffix}{help}\n# TYPE {name}{suffix} {kind}\n")?;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_those_who_ask_for_it_and_plain_text_for_all_others() {
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                            application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;q=0.3,\
                            text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for accept in [
            prometheus_2,
            prometheus_3,
            "application/openmetrics-text",
            "Application/OpenMetrics-Text; version=\"1.0.0\"",
            "text/plain, application/openmetrics-text",
        ] {
            assert_eq!(Format::accepted([accept]), Format::OpenMetrics, "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/plain; version=0.0.4",
            "application/*",
            "application/json",
            "application/openmetrics-text; version=2.0.0",
            "application/openmetrics-text; q=0",
            "application/openmetrics-text; q=0.2, text/plain",
            "application/openmetrics-text; q=0.2, text/plain; q=0.3, */*; q=0.1",
            ";;==,,",
        ] {
            assert_eq!(Format::accepted([accept]), Format::Plain, "{accept}");
        }
        assert_eq!(Format::accepted([]), Format::Plain);
        assert_eq!(
            Format::accepted(["text/plain;q=0.1", "application/openmetrics-text"]),
            Format::OpenMetrics
        );
    }

    #[test]
    fn plain_text_declares_metrics_under_the_names_of_their_samples() {
        let open = "# HELP a_b Both # of them.\n# TYPE a_b counter\na_b_total{x=\"# TYPE\"} 1\n# HELP build What.\n# TYPE build info\n\
                    build_info{version=\"1\"} 1\n# HELP t_seconds Time.\n# TYPE t_seconds histogram\n# UNIT t_seconds seconds\n\
                    t_seconds_sum 0.0\n# HELP u Odd.\n# TYPE u unknown\nu 1\n# EOF\n";
        let expected = "# HELP a_b_total Both # of them.\n# TYPE a_b_total counter\na_b_total{x=\"# TYPE\"} 1\n\
                        # HELP build_info What.\n# TYPE build_info gauge\nbuild_info{version=\"1\"} 1\n\
                        # HELP t_seconds Time.\n# TYPE t_seconds histogram\nt_seconds_sum 0.0\n# HELP u Odd.\n# TYPE u untyped\nu 1\n";
        assert_eq!(plain(open).unwrap(), expected);
    }
}
