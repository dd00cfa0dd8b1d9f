// Package metrics counts what a process does, in Prometheus's form.
//
// No label has a value that somebody outside chose: routes are patterns, types are
// those of facts. Nothing of a prompt, a text, a user or an address is counted by.
// All of it is safe for concurrent use.
package metrics

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"colophon/events"
)

// Metrics are those of one process.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.HistogramVec
	appended *prometheus.CounterVec
	tokens   prometheus.Counter
}

// New returns metrics, all of them at zero; the pool is the process's own.
func New(pool *pgxpool.Pool) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "colophon_http_request_duration_seconds",
			Help:    "Requests by route and status, and how long they took; of a stream, how long it lasted.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"route", "status"}),
		appended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "colophon_events_total",
			Help: "Events that this process has put on record, by type.",
		}, []string{"type"}),
		tokens: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "colophon_tokens_total",
			Help: "Model tokens that this process has generated and put on record.",
		}),
	}
	m.registry.MustRegister(m.requests, m.appended, m.tokens, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), database{pool})
	return m
}

// Request counts a request that has been answered; route is a pattern.
func (m *Metrics) Request(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Observe(took.Seconds())
}

// Appended counts an event that has been put on record.
func (m *Metrics) Appended(e events.Event) {
	m.appended.WithLabelValues(e.Fact.Type()).Inc()
	if advanced, ok := e.Fact.(events.JobAdvanced); ok {
		m.tokens.Add(float64(len(advanced.Tokens)))
	}
}

// Handler answers with all of them. What the database has to be asked for is
// missing while it does not answer.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// database collects what the database knows, and how the pool of connections to it is.
type database struct{ pool *pgxpool.Pool }

var (
	up          = prometheus.NewDesc("colophon_database_up", "Whether the database has answered this scrape.", nil, nil)
	outstanding = prometheus.NewDesc("colophon_jobs", "Jobs of the whole service that have not ended, by state; queued is the queue's depth.", []string{"state"}, nil)
	connections = prometheus.NewDesc("colophon_database_connections", "Connections of this process's pool, by state.", []string{"state"}, nil)
	most        = prometheus.NewDesc("colophon_database_connections_max", "Most connections of this process's pool.", nil, nil)
	waits       = prometheus.NewDesc("colophon_database_waits_total", "Times that something waited for a connection.", nil, nil)
	waited      = prometheus.NewDesc("colophon_database_wait_seconds_total", "How long in all.", nil, nil)
)

// Describe sends what Collect may send.
func (d database) Describe(all chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{up, outstanding, connections, most, waits, waited} {
		all <- desc
	}
}

// scrapeTimeout is how long the database may take to answer.
const scrapeTimeout = 2 * time.Second

// Collect sends what is so now.
func (d database) Collect(all chan<- prometheus.Metric) {
	stat := d.pool.Stat()
	send := func(desc *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		all <- prometheus.MustNewConstMetric(desc, kind, v, labels...)
	}
	send(connections, prometheus.GaugeValue, float64(stat.AcquiredConns()), "acquired")
	send(connections, prometheus.GaugeValue, float64(stat.IdleConns()), "idle")
	send(connections, prometheus.GaugeValue, float64(stat.ConstructingConns()), "connecting")
	send(most, prometheus.GaugeValue, float64(stat.MaxConns()))
	send(waits, prometheus.CounterValue, float64(stat.EmptyAcquireCount()))
	send(waited, prometheus.CounterValue, stat.EmptyAcquireWaitTime().Seconds())
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	queued, running, err := d.jobs(ctx)
	if err != nil {
		send(up, prometheus.GaugeValue, 0)
		return
	}
	send(up, prometheus.GaugeValue, 1)
	send(outstanding, prometheus.GaugeValue, float64(queued), "queued")
	send(outstanding, prometheus.GaugeValue, float64(running), "running")
}

// jobs counts the jobs that have not ended; what has ended is in no index that
// this reads.
func (d database) jobs(ctx context.Context) (queued, running int, err error) {
	err = d.pool.QueryRow(ctx, `
		select count(*) filter (where state = 'queued'), count(*) filter (where state = 'running')
		from history where state in ('queued', 'running')`).Scan(&queued, &running)
	if err != nil {
		return 0, 0, fmt.Errorf("count jobs: %w", err)
	}
	return queued, running, nil
}
