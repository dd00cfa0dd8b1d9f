// Package metrics counts a process's requests, events and tokens for Prometheus.
//
// Labels never carry prompts, texts, users, addresses or other values that a client
// chooses. The value of a route label is a pattern, and the value of a type label is an
// event type. The whole package is safe for concurrent use.
package metrics

import (
	"cmp"
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
	"colophon/events/ledger"
)

// Metrics holds the metrics of one process.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.HistogramVec
	appended *prometheus.CounterVec
	tokens   prometheus.Counter
	erased   *prometheus.CounterVec
	sent     *prometheus.HistogramVec
}

// New returns metrics that start at zero. They include figures of the given connection
// pool and of its database.
func New(pool *pgxpool.Pool) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "colophon_http_request_duration_seconds",
			Help:    "Duration of requests by route and status; for a stream, its whole duration.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"route", "status"}),
		appended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "colophon_events_total",
			Help: "Events appended by this process, by type.",
		}, []string{"type"}),
		tokens: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "colophon_tokens_total",
			Help: "Model tokens generated and recorded by this process.",
		}),
		erased: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "colophon_jobs_erased_total",
			Help: "Jobs whose prompts and texts this process has erased, by who or what wanted it: owner or retention.",
		}, []string{"by"}),
		sent: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "colophon_webhook_attempt_duration_seconds",
			Help:    "Duration of attempts of this process to send messages to webhooks, by result: delivered, or the reason of the failure.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20},
		}, []string{"result"}),
	}
	m.registry.MustRegister(m.requests, m.appended, m.tokens, m.erased, m.sent, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), database{pool})
	return m
}

// Request counts a request that has been answered. The route must be a pattern.
func (m *Metrics) Request(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Observe(took.Seconds())
}

// Appended counts an appended event, the tokens that it records, and the job that it erases.
func (m *Metrics) Appended(e events.Event) {
	m.appended.WithLabelValues(e.Fact.Type()).Inc()
	switch f := e.Fact.(type) {
	case events.JobAdvanced:
		m.tokens.Add(float64(len(f.Tokens)))
	case events.JobErased:
		m.erased.WithLabelValues(f.By).Inc()
	}
}

// Delivery counts an attempt to send a message to a webhook. The reason of a failure is one of
// package webhook, and empty for a message that was delivered.
func (m *Metrics) Delivery(reason string, took time.Duration) {
	m.sent.WithLabelValues(cmp.Or(reason, "delivered")).Observe(took.Seconds())
}

// PrefixCache adds the figures of a worker's prefix cache, which read returns: the number of
// tokens that were computed and that were found in the cache, and the size in bytes of what
// the cache keeps. It may be called once.
func (m *Metrics) PrefixCache(read func() (computed, found int, unused int64)) {
	tokens := func(result string, n func() int) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "colophon_prefix_cache_tokens_total",
			Help:        "Tokens of prompts and texts of this process's jobs, by result: found in the prefix cache, or computed.",
			ConstLabels: prometheus.Labels{"result": result},
		}, func() float64 { return float64(n()) })
	}
	m.registry.MustRegister(
		tokens("computed", func() int { computed, _, _ := read(); return computed }),
		tokens("found", func() int { _, found, _ := read(); return found }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "colophon_prefix_cache_bytes",
			Help: "Size of the keys and values that the prefix cache keeps and no running job uses.",
		}, func() float64 { _, _, unused := read(); return float64(unused) }))
}

// Drafts adds the number of a worker's draft tokens that were accepted and rejected so far, which
// read returns. It may be called once.
func (m *Metrics) Drafts(read func() (accepted, rejected int)) {
	tokens := func(result string, n func() int) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "colophon_draft_tokens_total",
			Help:        "Tokens of texts that this process has guessed and computed in advance, by result: accepted if the text went on with them, or rejected.",
			ConstLabels: prometheus.Labels{"result": result},
		}, func() float64 { return float64(n()) })
	}
	m.registry.MustRegister(
		tokens("accepted", func() int { accepted, _ := read(); return accepted }),
		tokens("rejected", func() int { _, rejected := read(); return rejected }))
}

// Handler serves all metrics. If the database does not answer, the metrics that need a
// query are missing.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// database collects the figures of the database and of the connection pool.
type database struct{ pool *pgxpool.Pool }

var (
	up          = prometheus.NewDesc("colophon_database_up", "Whether the database has answered this scrape.", nil, nil)
	clock       = prometheus.NewDesc("colophon_clock_ahead_seconds", "Time by which this process's clock is ahead of the database's clock, which the service uses.", nil, nil)
	outstanding = prometheus.NewDesc("colophon_jobs", "Jobs of the whole service that have not ended, by state; queued is the queue's depth.", []string{"state"}, nil)
	damaged     = prometheus.NewDesc("colophon_damaged_streams", "Event streams of the whole service that are in quarantine.", nil, nil)
	logLag      = prometheus.NewDesc("colophon_log_lag_seconds", "Age of the oldest event of the whole service that has no index in the log yet; 0 if all have one.", nil, nil)
	unsigned    = prometheus.NewDesc("colophon_log_unsigned_seconds", "Age of the oldest event of the whole service that has an index in the log and is in no signed checkpoint; 0 if there is none.", nil, nil)
	overdue     = prometheus.NewDesc("colophon_webhook_lag_seconds", "Time since when the message of the whole service to a webhook that has waited longest is due; 0 if none is due.", nil, nil)
	connections = prometheus.NewDesc("colophon_database_connections", "Connections of this process's pool, by state.", []string{"state"}, nil)
	most        = prometheus.NewDesc("colophon_database_connections_max", "Limit of connections of this process's pool.", nil, nil)
	waits       = prometheus.NewDesc("colophon_database_waits_total", "Number of waits for a connection.", nil, nil)
	waited      = prometheus.NewDesc("colophon_database_wait_seconds_total", "Total duration of waits for a connection.", nil, nil)
)

// Describe sends the descriptions of all metrics that Collect may send.
func (d database) Describe(all chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{up, clock, outstanding, damaged, logLag, unsigned, overdue, connections, most, waits, waited} {
		all <- desc
	}
}

// scrapeTimeout is the maximum time that the database may take to answer a query for
// metrics.
const scrapeTimeout = 2 * time.Second

// Collect sends the current values of the metrics.
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
	begin := time.Now()
	queued, running, quarantined, now, err := d.query(ctx)
	if err != nil {
		send(up, prometheus.GaugeValue, 0)
		return
	}
	send(up, prometheus.GaugeValue, 1)
	middle := begin.Round(0).Add(time.Since(begin) / 2) // without the monotonic clock reading, because the database's time has none either
	send(clock, prometheus.GaugeValue, middle.Sub(now).Seconds())
	send(outstanding, prometheus.GaugeValue, float64(queued), "queued")
	send(outstanding, prometheus.GaugeValue, float64(running), "running")
	send(damaged, prometheus.GaugeValue, float64(quarantined))
	if lag, err := ledger.Lag(ctx, d.pool); err == nil {
		send(logLag, prometheus.GaugeValue, lag.Seconds())
	}
	if age, err := ledger.Unsigned(ctx, d.pool); err == nil {
		send(unsigned, prometheus.GaugeValue, age.Seconds())
	}
	if lag, err := events.DeliveryLag(ctx, d.pool); err == nil {
		send(overdue, prometheus.GaugeValue, lag.Seconds())
	}
}

// query counts the jobs that have not ended and the damaged streams, and reads the
// database's clock. It uses an index that contains no ended jobs.
func (d database) query(ctx context.Context) (queued, running, damaged int, now time.Time, err error) {
	err = d.pool.QueryRow(ctx, `
		select count(*) filter (where state = 'queued'), count(*) filter (where state = 'running'), (select count(*) from quarantine), clock_timestamp()
		from history where state in ('queued', 'running')`).Scan(&queued, &running, &damaged, &now)
	if err != nil {
		return 0, 0, 0, now, fmt.Errorf("count jobs: %w", err)
	}
	return queued, running, damaged, now, nil
}
