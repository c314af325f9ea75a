package main

// What an operator can measure: GET /stat/go.

import (
	"encoding/json"
	"net/http"
	"runtime"
	"sync"
	"time"
)

// goStat has the original's keys, in its order.
type goStat struct {
	Time             int64     `json:"time"` // Unix, ns
	GoVersion        string    `json:"go_version"`
	GoOS             string    `json:"go_os"`
	GoArch           string    `json:"go_arch"`
	CPUNum           int       `json:"cpu_num"`
	GoroutineNum     int       `json:"goroutine_num"`
	Gomaxprocs       int       `json:"gomaxprocs"`
	CgoCallNum       int64     `json:"cgo_call_num"`
	MemoryAlloc      uint64    `json:"memory_alloc"`
	MemoryTotalAlloc uint64    `json:"memory_total_alloc"`
	MemorySys        uint64    `json:"memory_sys"`
	MemoryLookups    uint64    `json:"memory_lookups"`
	MemoryMallocs    uint64    `json:"memory_mallocs"`
	MemoryFrees      uint64    `json:"memory_frees"`
	MemoryStack      uint64    `json:"memory_stack"`
	HeapAlloc        uint64    `json:"heap_alloc"`
	HeapSys          uint64    `json:"heap_sys"`
	HeapIdle         uint64    `json:"heap_idle"`
	HeapInuse        uint64    `json:"heap_inuse"`
	HeapReleased     uint64    `json:"heap_released"`
	HeapObjects      uint64    `json:"heap_objects"`
	GCNext           uint64    `json:"gc_next"`
	GCLast           uint64    `json:"gc_last"` // Unix, ns
	GCNum            uint32    `json:"gc_num"`
	GCPerSecond      float64   `json:"gc_per_second"`
	GCPausePerSecond float64   `json:"gc_pause_per_second"` // ms
	GCPause          []float64 `json:"gc_pause"`            // ms, newest first, since the previous call
}

// gcSample is what the previous call of /stat/go saw.
type gcSample struct {
	mu    sync.Mutex
	at    time.Time
	num   uint32
	pause uint64 // ns in all
}

func (s *server) statGo(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.Encode(s.gc.stat())
}

func (s *gcSample) stat() goStat {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	now := time.Now()
	st := goStat{
		Time: now.UnixNano(), GoVersion: runtime.Version(), GoOS: runtime.GOOS, GoArch: runtime.GOARCH,
		CPUNum: runtime.NumCPU(), GoroutineNum: runtime.NumGoroutine(), Gomaxprocs: runtime.GOMAXPROCS(0),
		CgoCallNum: runtime.NumCgoCall(), MemoryAlloc: mem.Alloc, MemoryTotalAlloc: mem.TotalAlloc, MemorySys: mem.Sys,
		MemoryLookups: mem.Lookups, MemoryMallocs: mem.Mallocs, MemoryFrees: mem.Frees, MemoryStack: mem.StackInuse,
		HeapAlloc: mem.HeapAlloc, HeapSys: mem.HeapSys, HeapIdle: mem.HeapIdle, HeapInuse: mem.HeapInuse,
		HeapReleased: mem.HeapReleased, HeapObjects: mem.HeapObjects, GCNext: mem.NextGC, GCLast: mem.LastGC,
		GCNum: mem.NumGC, GCPause: []float64{},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// The runtime remembers the last 256 pauses, in a ring.
	for n := mem.NumGC; n > s.num && mem.NumGC-n < uint32(len(mem.PauseNs)); n-- {
		st.GCPause = append(st.GCPause, float64(mem.PauseNs[(n-1)%uint32(len(mem.PauseNs))])/1e6)
	}
	if seconds := now.Sub(s.at).Seconds(); !s.at.IsZero() && seconds > 0 {
		st.GCPerSecond = float64(mem.NumGC-s.num) / seconds
		st.GCPausePerSecond = float64(mem.PauseTotalNs-s.pause) / 1e6 / seconds
	}
	s.at, s.num, s.pause = now, mem.NumGC, mem.PauseTotalNs
	return st
}
