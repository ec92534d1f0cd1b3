//! The decisions alone, at a scale that no test cluster has: how long they take, and how that grows.

use std::{fs, path::Path, time::Instant};

use std::time::Duration;

use anyhow::{Context, Result};
use plotters::{
    prelude::{
        BLACK, ChartBuilder, Circle, Color, EmptyElement, IntoDrawingArea, IntoLogRange, LineSeries, Palette,
        Palette99, PathElement, SVGBackend, WHITE,
    },
    series::PointSeries,
    style::IntoFont,
};

use crate::{
    simulation::{Outcome, Parameters, simulate, trace},
    terminal::Terminal,
};

use super::figures::{Bound, Figures, count, count64, seconds};

/// Where the plot is, in `docs`.
pub(super) const PLOT: &str = "performance-growth.svg";

/// A sweep over one size.
struct Sweep {
    name: &'static str,
    what: &'static str,
    /// Size, and microseconds of decisions for a job.
    points: Vec<(f64, f64)>,
}

pub(super) async fn run(terminal: Terminal) -> Result<Figures> {
    let step = terminal.step("100,000 jobs");
    let begun = Instant::now();
    // One thread each: the machine has two cores.
    let (large, sweeps) = tokio::join!(
        tokio::task::spawn_blocking(large),
        tokio::task::spawn_blocking(sweeps)
    );
    let (outcome, took) = large.context("the simulation broke off")??;
    let sweeps = sweeps.context("the simulation broke off")??;
    let all = begun.elapsed();
    step.done(format_args!("{:.1} s", all.as_secs_f64()));

    let mut figures = Figures::default();
    figures.add(
        "took",
        "100,000 jobs on 1,000 pools, simulated in",
        seconds(took),
        "s",
    );
    figures.promise(
        "all",
        "the same and all sweeps",
        seconds(all),
        "s",
        Bound::AtMost(60.0),
    );
    figures.promise(
        "done",
        "jobs that ran",
        count(outcome.done),
        "",
        Bound::AtLeast(100_000.0),
    );
    figures.promise(
        "runners",
        "runners for them",
        count(outcome.runners),
        "",
        Bound::AtMost(100_000.0),
    );
    figures.add("most", "of these at one moment", count(outcome.most), "");
    figures.add(
        "wait_p99",
        "queued → started in virtual time, p99, at 5,000 writes/s",
        count64(outcome.waits.p99) / 1_000.0,
        "s",
    );
    figures.add(
        "length",
        "virtual time",
        outcome.length.as_secs_f64() / 60.0,
        "min",
    );
    figures.add(
        "writes_per_job",
        "writes to the API server per job, everybody's",
        count64(outcome.writes) / count(outcome.done.max(1)),
        "",
    );
    for (name, what, cost) in [
        ("route", "routing an event", outcome.costs.route),
        ("fold", "folding events into a ledger", outcome.costs.fold),
        ("desired", "the wanted number of a pool", outcome.costs.desired),
        ("plan", "the plan of a set", outcome.costs.plan),
    ] {
        let each = cost.took.as_secs_f64() * 1e6 / count64(cost.calls.max(1));
        figures.add(name, &format!("a decision: {what}"), each, "µs");
    }
    figures.add("per_job", "all decisions per job", per_job(&outcome), "µs");
    for sweep in &sweeps {
        let at = |size: f64| sweep.points.iter().find(|(x, _)| (*x - size).abs() < 0.5);
        if let (Some((_, few)), Some((_, many))) = (at(100.0), at(1_000.0)) {
            let what = format!("decisions per job, {}: 100 → 1,000", sweep.what);
            figures.add(sweep.name, &what, many / few, "×");
        }
    }
    draw(&sweeps, &super::document::folder().join(PLOT))?;
    Ok(figures)
}

/// Microseconds of decisions for a job.
fn per_job(outcome: &Outcome) -> f64 {
    outcome.costs.took().as_secs_f64() * 1e6 / count(outcome.done.max(1))
}

/// Every pool has a hundred jobs within ten minutes, of half an hour each: all runners stand at once.
fn large() -> Result<(Outcome, Duration)> {
    let parameters = Parameters {
        pools: 1_000,
        scopes: 50,
        max_per_pool: 100,
        writes_per_second: 5_000,
        ..Parameters::default()
    };
    let jobs = trace(
        100_000,
        parameters.pools,
        Duration::from_mins(10),
        Duration::from_mins(30),
        1,
    );
    let begun = Instant::now();
    let outcome = simulate(&parameters, &jobs)?;
    Ok((outcome, begun.elapsed()))
}

fn sweeps() -> Result<Vec<Sweep>> {
    let sizes = [10, 30, 100, 300, 1_000];
    let measure = |parameters: &Parameters, jobs: usize, span: Duration, length: Duration| {
        let jobs = trace(jobs, parameters.pools, span, length, 2);
        simulate(parameters, &jobs).map(|outcome| per_job(&outcome))
    };
    let (minute, half) = (Duration::from_mins(1), Duration::from_mins(30));
    let mut runners = Sweep {
        name: "growth_runners",
        what: "runners of one pool",
        points: Vec::new(),
    };
    let mut pools = Sweep {
        name: "growth_pools",
        what: "pools, each in a scope of its own",
        points: Vec::new(),
    };
    let mut streams = Sweep {
        name: "growth_jobs",
        what: "jobs, one after the other on ten runners",
        points: Vec::new(),
    };
    for size in sizes {
        let parameters = Parameters {
            max_per_pool: size,
            ..Parameters::default()
        };
        runners
            .points
            .push((count(size), measure(&parameters, size, minute * 2, half)?));
        let parameters = Parameters {
            pools: size,
            scopes: size,
            ..Parameters::default()
        };
        pools
            .points
            .push((count(size), measure(&parameters, size * 10, minute * 10, half)?));
        let parameters = Parameters {
            max_per_pool: 10,
            ..Parameters::default()
        };
        let span = Duration::from_millis(500) * u32::try_from(size).unwrap_or(u32::MAX);
        streams.points.push((
            count(size),
            measure(&parameters, size, span, Duration::from_secs(3))?,
        ));
    }
    Ok(vec![runners, pools, streams])
}

fn draw(sweeps: &[Sweep], path: &Path) -> Result<()> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (720, 420)).into_drawing_area();
        area.fill(&WHITE).context("could not draw")?;
        let highest = sweeps
            .iter()
            .flat_map(|sweep| sweep.points.iter().map(|(_, y)| *y))
            .fold(10.0, f64::max);
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .caption(
                "Time of all decisions for one job",
                ("sans-serif", 18).into_font(),
            )
            .build_cartesian_2d((10.0..1_000.0_f64).log_scale(), (1.0..highest * 2.0).log_scale())
            .context("could not draw the axes")?;
        chart
            .configure_mesh()
            .x_desc("runners, pools or jobs")
            .y_desc("microseconds")
            .draw()
            .context("could not draw the mesh")?;
        for (number, sweep) in sweeps.iter().enumerate() {
            let colour = Palette99::pick(number).mix(1.0);
            let line = LineSeries::new(sweep.points.iter().copied(), colour.stroke_width(2));
            chart
                .draw_series(line)
                .context("could not draw a line")?
                .label(sweep.what)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            let dots = PointSeries::of_element(
                sweep.points.iter().copied(),
                3,
                colour.filled(),
                &|at, size, style| EmptyElement::at(at) + Circle::new((0, 0), size, style),
            );
            chart.draw_series(dots).context("could not draw the points")?;
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()
            .context("could not draw the legend")?;
        area.present().context("could not finish the plot")?;
    }
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}
