package pg

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// linkFile is the file in a cluster's directory that names the link to the directory.
const linkFile = "link"

// recordLink records dir in the cluster's directory if dir is a link to it.
//
// A copy of dir is a second link to the same cluster. So two installations would share
// one database without knowing it. The record tells the link from its copies.
func (d *directory) recordLink(dir string) error {
	if fi, err := os.Lstat(dir); err != nil || fi.Mode().Type() != os.ModeSymlink {
		return err
	}
	root, err := os.OpenRoot(d.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Remove(linkFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(linkFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, dir+"\n")
	return errors.Join(err, f.Sync(), f.Close())
}

// checkLink returns errCopy if dir is a copy of the link that is recorded in the cluster's
// directory. If the recorded link is gone or leads elsewhere, dir has been moved and is
// not a copy.
func checkLink(dir, cluster string) error {
	here, err := os.Lstat(dir)
	if err != nil || here.Mode().Type() != os.ModeSymlink {
		return err
	}
	f, err := os.OpenInRoot(cluster, linkFile)
	if err != nil {
		return nil // a cluster of an earlier version has no record
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 8<<10))
	if err != nil {
		return err
	}
	recorded := strings.TrimSuffix(string(text), "\n")
	original, err := os.Lstat(recorded)
	if err != nil || os.SameFile(original, here) {
		return nil // the original has been moved to dir
	}
	target, err := os.Stat(recorded)
	if err != nil {
		return nil // the original link leads nowhere
	}
	ours, err := os.Stat(cluster)
	if err != nil || !os.SameFile(target, ours) {
		return err
	}
	return fmt.Errorf("%w of %s: it is a link to the original's cluster in %s: remove the link to create a new cluster, "+
		"or stop the original and copy the cluster in place of the link", errCopy, recorded, cluster)
}
