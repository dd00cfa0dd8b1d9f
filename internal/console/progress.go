package console

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
)

// Progress shows how much of a total is done: bytes of a file that have arrived, or things
// that are counted. On a terminal it shows a bar. Elsewhere it writes a line every 10 % or 5
// seconds. It is not safe for concurrent use.
type Progress struct {
	w        io.Writer
	name     string
	unit     string // what is counted; empty for bytes
	terminal bool

	bar    *progressbar.ProgressBar // nil until the first progress is shown
	logged time.Time                // the time of the last line
	tenth  int64                    // tenths of the total that were done when the last line was written, from 0 to 10
}

// NewProgress returns a progress of bytes that has shown nothing yet.
func NewProgress(w io.Writer, name string) *Progress { return NewCounter(w, name, "") }

// NewCounter returns a progress of things, such as "files", that has shown nothing yet.
func NewCounter(w io.Writer, name, unit string) *Progress {
	p := &Progress{w: w, name: name, unit: unit, logged: time.Now()}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// Show shows how much is done, and the total.
func (p *Progress) Show(done, total int64) {
	if total == 0 {
		return
	}
	if p.terminal {
		if p.bar == nil {
			p.bar = progressbar.NewOptions64(total,
				progressbar.OptionSetWriter(p.w),
				progressbar.OptionSetDescription(p.name),
				progressbar.OptionShowBytes(p.unit == ""),
				progressbar.OptionFullWidth(),
				progressbar.OptionThrottle(100*time.Millisecond),
			)
		}
		_ = p.bar.Set64(done) // if the bar cannot be drawn, the program continues
		return
	}
	tenth := done * 10 / total
	if now := time.Now(); tenth > p.tenth || now.Sub(p.logged) >= 5*time.Second {
		p.logged, p.tenth = now, tenth
		fmt.Fprintf(p.w, "%s: %s (%d %%)\n", p.name, p.amount(done, total), done*100/total)
	}
}

func (p *Progress) amount(done, total int64) string {
	if p.unit == "" {
		return fmt.Sprintf("%s of %s", Megabytes(done), Megabytes(total))
	}
	return fmt.Sprintf("%d of %d %s", done, total, p.unit)
}

// Note writes a line of text. If a bar is shown, the line is above the bar.
func (p *Progress) Note(text string) {
	p.Above()
	fmt.Fprintln(p.w, text)
}

// Above makes room for a line above the bar, which the caller writes.
func (p *Progress) Above() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}

// End moves the cursor below the bar.
func (p *Progress) End() {
	if p.bar != nil {
		fmt.Fprintln(p.w)
	}
}

// Megabytes formats a number of bytes in megabytes, such as 1.2 MB.
func Megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
