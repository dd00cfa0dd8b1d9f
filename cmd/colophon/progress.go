package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress shows how a pull goes: a bar on a terminal, elsewhere a line every
// 10 % or 5 seconds.
type progress struct {
	w        io.Writer
	name     string
	terminal bool

	bar       *progressbar.ProgressBar // nil until there is something to show
	said      time.Time                // when and
	saidTenth int64                    // of what there was a line
}

func newProgress(w io.Writer, name string) *progress {
	p := &progress{w: w, name: name, said: time.Now()}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// show says that done of total bytes are there.
func (p *progress) show(done, total int64) {
	if total == 0 {
		return
	}
	if p.terminal {
		if p.bar == nil {
			p.bar = progressbar.NewOptions64(total,
				progressbar.OptionSetWriter(p.w),
				progressbar.OptionSetDescription(p.name),
				progressbar.OptionShowBytes(true),
				progressbar.OptionFullWidth(),
				progressbar.OptionThrottle(100*time.Millisecond),
			)
		}
		_ = p.bar.Set64(done) // it is only a picture
		return
	}
	tenth := done * 10 / total
	if now := time.Now(); tenth > p.saidTenth || now.Sub(p.said) >= 5*time.Second {
		p.said, p.saidTenth = now, tenth
		fmt.Fprintf(p.w, "%s: %s of %s (%d %%)\n", p.name, megabytes(done), megabytes(total), done*100/total)
	}
}

// note says something else, above the bar if there is one.
func (p *progress) note(text string) {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
	fmt.Fprintln(p.w, text)
}

// end leaves the line of the bar.
func (p *progress) end() {
	if p.bar != nil {
		fmt.Fprintln(p.w)
	}
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
