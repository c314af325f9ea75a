package main

// SIGHUP: the server reads the configuration again, and moves each waiting message to the lane of the destination that
// the new configuration has for it.

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// reloadRefused is the status that the service manager shows after a reload met an error.
const reloadRefused = "the last reload was refused, the configuration before it stays: see the log"

// reloadAt reloads the configuration at each signal. If there is an error, nothing changes. The keys that are passed to
// keepFixed keep their values. reloadAt runs in a goroutine of its own: reading a file may block, as with a named pipe,
// and must not keep the server from stopping.
func (o options) reloadAt(signals <-chan os.Signal, s *server, logs *logs) {
	for range signals {
		tellSystemd("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", monotonicTime().Microseconds()))
		running, status := s.cfg(), "configuration reloaded"
		cfg, err := loadConfig(o)
		if err == nil {
			err = logs.switchTo(cfg)
		}
		if err == nil {
			o.keepFixed(logs, "core.port", running.core.port, &cfg.core.port)
			o.keepFixed(logs, "core.socket_mode", running.core.socketMode, &cfg.core.socketMode)
			o.keepFixed(logs, "spool.dir", running.spool.dir, &cfg.spool.dir)
			err = s.reload(cfg, func(route, counts) {})
		}
		s.stats.locked(func() { s.stats.ReloadRefused = err != nil })
		if err == nil {
			logs.notice(status)
			logs.warn(cfg)
		} else {
			status = reloadRefused
			logs.switchTo(running) // opens the log files again: logrotate needs that even now
			for line := range strings.Lines(err.Error()) {
				logs.log.Error("reload refused: the old configuration stays", "err", strings.TrimSpace(line))
			}
		}
		tellSystemd("READY=1", "STATUS="+status)
	}
}

// keepFixed sets a key back to its old value, because the key cannot change while the server runs. It logs that the key
// has changed, except in a dry run.
func (o options) keepFixed(logs *logs, key, old string, now *string) {
	if *now != old && !o.dryRun {
		logs.notice(key+" has changed: restart the server to use the new one", "old", old, "new", *now)
	}
	*now = old
}

// reload makes cfg the configuration; at the start there is none before it. It calls count for each message in the
// spool that waits or is a dead letter. Meanwhile no turn begins. reload first waits until no turn is in progress and
// no change to a lane is being written: 30 s at most if the disk works. So a turn sees one configuration, and no
// message is in two lanes. If there is an error, the configuration and the lanes stay as they are.
func (d *deliverer) reload(cfg *config, count func(route, counts)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.resting++
	d.wait(func() bool { return d.posting[0] == 0 })
	d.reloading = true
	d.wait(func() bool { return d.writing == 0 })
	err := d.rebuild(cfg, count)
	d.reloading = false
	d.resting--
	d.changed.Broadcast()
	d.begin()
	return err
}

// rebuild fills the lanes again with the messages that wait in the spool, each in the lane of the destination that cfg
// has for it. Attempts and back-offs start again from zero. Pauses stay, and so does the time when a lane began to
// fail.
func (d *deliverer) rebuild(cfg *config, count func(route, counts)) error {
	for _, t := range cfg.tags { // tags are shown in this order, even if nothing is counted for them
		d.stats.count(route{tag: t.name, index: slices.Index(cfg.byTag[t.name], t)}, counts{})
	}
	waiting, read, urgent := map[route][]waiter{}, []waiter(nil), []*turn(nil)
	err := d.spool.all(false, func() bool { return false }, func(_ found, l line, state string) {
		r, w, dead := parseRoute(string(l.route)), newWaiter(l.seq, l.size()), state == "dead"
		count(r, counts{FoundAtStart: 1, Waiting: int64(asInt(!dead)), Dead: int64(asInt(dead))})
		if dead {
			return
		}
		waiting[r] = append(waiting[r], w)
		if len(d.lanes) > 0 { // not at the start
			read = append(read, w)
		}
	})
	if err != nil {
		return err
	}
	slices.Sort(read)
	d.config.Store(cfg)
	d.spool.history.Store(cfg.spool.historyBytes)
	d.ring, d.bytes, d.urgentSize, d.firstPost = nil, 0, 0, time.Now().Add(cfg.pace())
	for _, l := range d.lanes {
		l.waiting = slices.DeleteFunc(l.waiting, func(w waiter) bool {
			_, ok := slices.BinarySearch(read, w)
			return ok // the others are damaged: they stay in l until gather cannot read them
		})
		l.account.lanesUntil = latest(l.account.lanesUntil, l.until) // new lanes of a webhook keep its pause
		urgent = append(urgent, l.urgent...)
		l.urgent, l.bytes, l.head, l.awake = nil, 0, head{}, false
		l.account.due, l.account.urgentSize, l.account.inRing = [4][]*lane{}, 0, false
	}
	for r, list := range waiting {
		l := d.lane(r)
		l.waiting = append(l.waiting, list...)
	}
	for _, a := range d.accounts {
		if a.lanesUntil = (time.Time{}); !a.limited {
			a.until = time.Time{}
		}
	}
	for _, t := range urgent {
		d.addUrgent(t)
	}
	for _, l := range d.lanes {
		slices.Sort(l.waiting)
		for _, w := range l.waiting {
			d.addBytes(l, w.size())
		}
		d.schedule(l)
	}
	return nil
}
