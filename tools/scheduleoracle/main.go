// Scheduleoracle says what scheduled overrides mean, minute by minute, in another way than Muster does: it walks through the calendar day by day,
// asks Go's own time zones what the clock on the wall shows, and looks at every minute. It shares no code and no data with Muster.
//
//	go run . SCENARIOS.json ANSWERS.json
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"time"
	_ "time/tzdata" // the same answers on every machine
)

type question struct {
	From      int64      `json:"from"`
	Minutes   int64      `json:"minutes"`
	Scenarios []scenario `json:"scenarios"`
}

type scenario struct {
	Name      string     `json:"name"`
	Overrides []override `json:"overrides"`
}

type override struct {
	StartTime      time.Time `json:"startTime"`
	EndTime        time.Time `json:"endTime"`
	TimeZone       string    `json:"timeZone"`
	MinReplicas    *int64    `json:"minReplicas"`
	RecurrenceRule struct {
		Frequency string     `json:"frequency"`
		UntilTime *time.Time `json:"untilTime"`
	} `json:"recurrenceRule"`
}

// A change is what holds from a minute on: [minute in Unix seconds, minimum in force or -1, next edge in Unix seconds or 0].
type answer struct {
	Name    string     `json:"name"`
	Changes [][3]int64 `json:"changes"`
}

type period struct{ start, end int64 }

// wall is a date and time without a zone, in seconds as if it were UTC.
func wall(t time.Time) int64 {
	_, offset := t.Zone()
	return t.Unix() + int64(offset)
}

// instant is when the wall clock shows w: the first time if it does so twice, by the offset before the gap if it never does.
func instant(w int64, zone *time.Location) int64 {
	offset := func(at int64) int64 {
		_, seconds := time.Unix(at, 0).In(zone).Zone()
		return int64(seconds)
	}
	before, after := offset(w-24*3600), offset(w+24*3600)
	first, second := w-before, w-after
	if second < first {
		first, second = second, first
	}
	for _, at := range []int64{first, second} {
		if at+offset(at) == w {
			return at
		}
	}
	return w - before
}

// periods are all occurrences that matter up to a time.
func (o override) periods(until int64) []period {
	frequency := o.RecurrenceRule.Frequency
	if frequency == "" {
		return []period{{o.StartTime.Unix(), o.EndTime.Unix()}}
	}
	zone := o.StartTime.Location()
	if o.TimeZone != "" {
		var err error
		if zone, err = time.LoadLocation(o.TimeZone); err != nil {
			panic(err)
		}
	}
	first, length := wall(o.StartTime.In(zone)), wall(o.EndTime.In(zone))-wall(o.StartTime.In(zone))
	day := time.Unix(first, 0).UTC()
	var all []period
	for w := first; w <= until; w += 24 * 3600 {
		today := time.Unix(w, 0).UTC()
		var takesPlace bool
		switch frequency {
		case "Daily":
			takesPlace = true
		case "Weekly":
			takesPlace = today.Weekday() == day.Weekday()
		case "Monthly":
			takesPlace = today.Day() == day.Day()
		case "Yearly":
			takesPlace = today.Month() == day.Month() && today.Day() == day.Day()
		}
		start := instant(w, zone)
		if last := o.RecurrenceRule.UntilTime; last != nil && start > last.Unix() {
			break
		}
		if takesPlace {
			all = append(all, period{start, instant(w+length, zone)})
		}
	}
	return all
}

func (s scenario) answer(from, minutes int64) answer {
	// Leap days may be eight years apart.
	horizon := from + minutes*60 + 9*366*24*3600
	all := make([][]period, len(s.Overrides))
	for i, o := range s.Overrides {
		all[i] = o.periods(horizon)
	}
	answer := answer{Name: s.Name}
	for m := range minutes {
		now := from + m*60
		minimum, edge := int64(-1), int64(0)
		sooner := func(at int64) {
			if at > now && (edge == 0 || at < edge) {
				edge = at
			}
		}
		isHidden := false
		for i, o := range s.Overrides {
			next := sort.Search(len(all[i]), func(k int) bool { return all[i][k].start > now })
			if next < len(all[i]) {
				sooner(all[i][next].start)
			}
			if next > 0 && now < all[i][next-1].end {
				sooner(all[i][next-1].end)
				if !isHidden && minimum < 0 && o.MinReplicas != nil {
					minimum = *o.MinReplicas
				}
				isHidden = isHidden || o.MinReplicas == nil
			}
		}
		last := len(answer.Changes) - 1
		if last < 0 || answer.Changes[last][1] != minimum || answer.Changes[last][2] != edge {
			answer.Changes = append(answer.Changes, [3]int64{now, minimum, edge})
		}
	}
	return answer
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: scheduleoracle SCENARIOS.json ANSWERS.json")
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var question question
	if err := json.Unmarshal(text, &question); err != nil {
		return err
	}
	var answers []answer
	for _, scenario := range question.Scenarios {
		answers = append(answers, scenario.answer(question.From, question.Minutes))
	}
	text, err = json.Marshal(answers)
	if err != nil {
		return err
	}
	return os.WriteFile(args[1], text, 0o644)
}
