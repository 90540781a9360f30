//! Plots of a report, as SVG.

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::bulk::{Carrier, Place, Work};
use crate::latency::What;
use crate::report::Report;
use crate::wire::{System, Way};

const SIZE: (u32, u32) = (900, 480);
/// Room for what the axes say.
const LEFT: u32 = 64;
const BOTTOM: u32 = 48;
const FONT: &str = "sans-serif";

/// A line, or a row of points, with its name and colour.
type Series = (String, RGBColor, Vec<(f64, f64)>);

/// The rate over the number of flows, of small packets on their way out through one worker; `None` without any.
pub(super) fn flows(report: &Report) -> anyhow::Result<Option<String>> {
    // The kernel's own ceiling is four times as high: it would press all others together.
    let shown = |system: &&System| **system != System::Devmap;
    let mut series: Vec<Series> = Vec::new();
    for &system in System::ALL.iter().filter(shown) {
        let rows = report.wire.iter().filter(|row| {
            (row.system, row.way, row.length, row.workers) == (system, Way::Out, 64, 1)
        });
        let mut points: Vec<_> = rows
            .filter_map(|row| Some((f64::from(row.flows), row.mpps?.median)))
            .collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        if !points.is_empty() {
            series.push((system.to_string(), colour(system), points));
        }
    }
    let top = series
        .iter()
        .flat_map(|(.., points)| points)
        .map(|point| point.1);
    let top = top.fold(0.0, f64::max) * 1.1;
    drawn(&series, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(
                "64-byte UDP through service, policy and VXLAN, one worker",
                (FONT, 18),
            )
            .margin(12)
            .x_label_area_size(BOTTOM)
            .y_label_area_size(LEFT)
            .build_cartesian_2d((0.8..1.4e6).log_scale(), 0.0..top)?;
        chart
            .configure_mesh()
            .x_desc("flows")
            .y_desc("Mpps")
            .x_label_formatter(&|flows| number(*flows))
            .light_line_style(WHITE)
            .label_style((FONT, 13))
            .draw()?;
        for (name, colour, points) in &series {
            let line = LineSeries::new(points.clone(), colour.stroke_width(2));
            let marks = points.iter().map(|&at| Circle::new(at, 4, colour.filled()));
            let colour = *colour;
            chart.draw_series(line)?.label(name).legend(move |(x, y)| {
                Rectangle::new([(x, y - 4), (x + 12, y + 4)], colour.filled())
            });
            chart.draw_series(marks)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .label_font((FONT, 13))
            .draw()?;
        Ok(())
    })
}

/// How long things take, at three quantiles; `None` without any.
pub(super) fn latency(report: &Report) -> anyhow::Result<Option<String>> {
    let whats = [What::Idle, What::HalfLoad, What::Connect];
    let mut names = Vec::new();
    for what in ["idle", "half load", "connect"] {
        names.extend(["p50", "p99", "p99.9"].map(|quantile| format!("{what} {quantile}")));
    }
    let mut series: Vec<Series> = Vec::new();
    for &system in System::ALL {
        let mut points = Vec::new();
        for (place, what) in whats.into_iter().enumerate() {
            let own = |row: &&crate::latency::Row| (row.system, row.what) == (system, what);
            let Some(row) = report.latency.iter().find(own) else {
                continue;
            };
            let figures = [row.p50_us, row.p99_us, row.p999_us];
            points.extend(
                (0..)
                    .zip(figures)
                    .filter_map(|(quantile, us)| Some(((place * 3 + quantile) as f64, us?.median))),
            );
        }
        if !points.is_empty() {
            series.push((system.to_string(), colour(system), points));
        }
    }
    grouped(
        &names,
        &series,
        (
            "Through a service to a pod of the same node: UDP there and back, TCP handshake",
            "µs",
        ),
    )
}

/// Gbit/s of one TCP stream; `None` without any.
pub(super) fn bulk(report: &Report) -> anyhow::Result<Option<String>> {
    let (mut names, mut points, mut colours) = (Vec::new(), Vec::new(), Vec::new());
    for row in report
        .bulk
        .iter()
        .filter(|row| row.work == Work::Streams(1))
    {
        let Some(rate) = row.rate else { continue };
        let carrier = match row.setting.carrier {
            Carrier::Podway => "podway",
            Carrier::Bridge => "bridge",
            Carrier::Vxlan => "vxlan",
            Carrier::VxlanPlain => "vxlan, no GSO",
            Carrier::Ovs => "ovs",
        };
        let place = match row.place {
            Place::SameNode => "same node".to_owned(),
            Place::AcrossNodes => format!("across, wire {}", row.setting.underlay_mtu),
        };
        colours.push(colour(row.setting.carrier.system()).mix(0.7));
        points.push((names.len() as f64, rate.median));
        names.push(format!("{carrier} {}: {place}", row.setting.pod_mtu));
    }
    let top = points.iter().map(|point| point.1).fold(0.0, f64::max) * 1.12;
    let count = names.len();
    let series = [("one stream".to_owned(), BLUE, points)];
    drawn(&series, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(
                "One TCP stream between two pods (names: pod MTU, place, MTU of the wire)",
                (FONT, 18),
            )
            .margin(12)
            .margin_right(40)
            .x_label_area_size(BOTTOM)
            .y_label_area_size(230)
            .build_cartesian_2d(0.0..top, -0.5..count as f64 - 0.5)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(WHITE)
            .x_desc("Gbit/s")
            .y_labels(count * 2 + 1)
            .y_label_formatter(&|place| name_at(&names, count as f64 - 1.0 - place))
            .label_style((FONT, 13))
            .draw()?;
        for ((place, rate), colour) in series[0].2.iter().zip(&colours) {
            let place = count as f64 - 1.0 - place;
            let bar = [(0.0, place - 0.3), (*rate, place + 0.3)];
            chart.draw_series([Rectangle::new(bar, colour.filled())])?;
            chart.draw_series([Text::new(
                format!("{rate:.1}"),
                (rate + top * 0.008, place + 0.18),
                (FONT, 13),
            )])?;
        }
        Ok(())
    })
}

/// Points above names, on a logarithmic scale.
fn grouped(
    names: &[String],
    series: &[Series],
    (caption, unit): (&str, &str),
) -> anyhow::Result<Option<String>> {
    let all = || {
        series
            .iter()
            .flat_map(|(.., points)| points)
            .map(|point| point.1)
    };
    let (low, high) = (
        all().fold(f64::MAX, f64::min) / 2.0,
        // Above all points there is room for their names.
        all().fold(0.0, f64::max) * 12.0,
    );
    drawn(series, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(caption, (FONT, 18))
            .margin(12)
            .x_label_area_size(BOTTOM)
            .y_label_area_size(LEFT)
            .build_cartesian_2d(-0.5..names.len() as f64 - 0.5, (low..high).log_scale())?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(names.len() * 2 + 1)
            .x_label_formatter(&|place| name_at(names, *place))
            .y_desc(unit)
            .y_label_formatter(&|figure| number(*figure))
            .light_line_style(WHITE)
            .label_style((FONT, 12))
            .draw()?;
        let half = series.len() as f64 / 2.0;
        for (index, (name, colour, points)) in series.iter().enumerate() {
            let shift = (index as f64 + 0.5 - half) * 0.12;
            let colour = *colour;
            let marks = points
                .iter()
                .map(|&(place, figure)| Circle::new((place + shift, figure), 5, colour.filled()));
            chart
                .draw_series(marks)?
                .label(name)
                .legend(move |(x, y)| Circle::new((x + 6, y), 5, colour.filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .label_font((FONT, 13))
            .draw()?;
        Ok(())
    })
}

/// The name of a whole place of an axis, and nothing between two.
fn name_at(names: &[String], place: f64) -> String {
    let is_whole = (place - place.round()).abs() < 1e-6 && place > -0.5;
    let name = is_whole
        .then(|| names.get(place.round() as usize))
        .flatten();
    name.cloned().unwrap_or_default()
}

/// What is drawn on a white ground; `None` if there is nothing to draw.
fn drawn(
    series: &[Series],
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), Box<dyn std::error::Error>>,
) -> anyhow::Result<Option<String>> {
    if series.iter().all(|(.., points)| points.is_empty()) {
        return Ok(None);
    }
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let ground = area.fill(&WHITE).map_err(Into::into);
        ground
            .and_then(|()| draw(&area))
            .map_err(|error| anyhow!("drawing a plot: {error}"))?;
        area.present()?;
    }
    Ok(Some(svg))
}

/// A number as people write it: 1 000 000 as 1M.
fn number(figure: f64) -> String {
    match figure {
        figure if figure >= 1e6 => format!("{:.0}M", figure / 1e6),
        figure if figure >= 1e3 => format!("{:.0}k", figure / 1e3),
        figure => format!("{figure:.0}"),
    }
}

fn colour(system: System) -> RGBColor {
    match system {
        System::Bare => RGBColor(120, 120, 120),
        System::Podway => RGBColor(0, 90, 200),
        System::PodwayChurn => RGBColor(110, 170, 240),
        System::Devmap => RGBColor(0, 0, 0),
        System::Linux => RGBColor(210, 110, 0),
        System::LinuxIptables => RGBColor(240, 190, 90),
        System::Ovs => RGBColor(200, 30, 60),
        System::Vpp => RGBColor(60, 150, 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [1.0, 1_000.0, 200_000.0, 1e6].map(number),
            ["1", "1k", "200k", "1M"]
        );
        let names = ["a".to_owned(), "b".to_owned()];
        assert_eq!(
            [-1.0, 0.0, 0.5, 1.0, 2.0].map(|place| name_at(&names, place)),
            ["", "a", "", "b", ""]
        );
    }
}
