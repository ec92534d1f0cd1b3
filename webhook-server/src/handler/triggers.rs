//! Deliveries that triggers may wait for: `check_run`, `push` and `pull_request`.

use muster_core::autoscale::reservation::{self, LedgerEvent, TriggerEvent};
use muster_core::routing::{EventFacts, EventTrigger, Triggered, Visibility};
use muster_github::events::TriggerPayload;
use muster_intake::Reason;
use tokio::time::Instant;

use super::{App, Remembered, Subject, full, not_written, nothing};
use crate::answer::{Answer, Matched, Outcome};
use crate::batch::NotWritten;
use crate::delivery::trigger_facts;

/// Adds the trigger's amount for its duration, once per delivery. What waited at an autoscaler that was deleted is
/// routed again once.
pub(super) async fn answer(
    app: &App,
    payload: &TriggerPayload,
    guid: Option<&str>,
    deadline: Instant,
) -> Answer {
    if let Some(answer) = app.not_ready() {
        return answer;
    }
    let facts = trigger_facts(payload);
    let event = facts.kind.name();
    let remembered = guid.map(|guid| Remembered {
        delivery: guid.into(),
        subject: Subject::Event(event),
    });
    if let Some(key) = &remembered
        && let Some(answer) = app.memory.get(key).await
    {
        app.metrics.duplicates.inc();
        return answer;
    }
    for is_last in [false, true] {
        let (autoscaler, trigger, candidates) = match route(app, &facts, deadline).await {
            Ok(Triggered::To {
                autoscaler,
                trigger,
                candidates,
            }) => (autoscaler, trigger, candidates),
            Ok(Triggered::Nowhere | Triggered::NeedsGroups) => break,
            Err(answer) => return answer,
        };
        let Some(name) = guid.and_then(|guid| TriggerEvent::name_of(event, guid)) else {
            let text = "the delivery has no usable X-GitHub-Delivery header, which names what it adds";
            return Answer::new(Outcome::Refused(Reason::Malformed), text);
        };
        let EventTrigger { amount, duration, .. } = trigger;
        let addition = LedgerEvent::Trigger(TriggerEvent {
            name,
            replicas: amount,
            duration,
        });
        match app.writers.commit(&autoscaler.id, addition, deadline).await {
            Ok(reservation::Outcome::Full) => return full(&autoscaler),
            Ok(_) => {
                let text = format!("scaled {} by {amount}", autoscaler.id.name);
                let answer = Answer::new(Outcome::ScaledUp, text).matched(vec![Matched {
                    autoscaler: autoscaler.id.clone(),
                    reason: "trigger",
                    candidates,
                }]);
                if let Some(key) = remembered {
                    app.memory.insert(key, answer.clone()).await;
                }
                return answer;
            }
            Err(NotWritten::Gone) if !is_last => {}
            Err(NotWritten::Gone) => break,
            Err(reason @ (NotWritten::Busy | NotWritten::Unconfirmed)) => return not_written(reason),
        }
    }
    nothing()
}

async fn route(app: &App, facts: &EventFacts<'_>, deadline: Instant) -> Result<Triggered, Answer> {
    let Some(groups) = &app.settings.groups else {
        return Ok(app.index.route_event(facts, Visibility::Unchecked));
    };
    match app.index.route_event(facts, Visibility::Unknown) {
        Triggered::NeedsGroups => {
            let visible = groups.visible(&facts.place, deadline).await?;
            Ok(app.index.route_event(facts, Visibility::Known(&visible)))
        }
        routing => Ok(routing),
    }
}
