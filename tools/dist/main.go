// Command dist makes what people download out of binaries that are built: for each platform an archive, a bill of
// materials and the tree that nfpm packs, and at the end the checksums. `make dist` calls it. The same input gives the
// same bytes, on any machine: times are all -time, owners are nobody's, orders are those of the names.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "dist:", err)
		os.Exit(1)
	}
}

// set is what one platform's archive and packages are made of.
type set struct {
	name     string // as in telegraf-victorialogs_0.1.0_linux_amd64
	version  string
	time     time.Time
	binaries []string // paths, sorted
	texts    []string // paths of what lies beside them
}

func run(args []string) error {
	flags := flag.NewFlagSet("dist", flag.ContinueOnError)
	version := flags.String("version", "", "`version` of the release")
	epoch := flags.Int64("time", 0, "time of all files, in `seconds` since 1970")
	platform := flags.String("platform", "", "`os/arch` of the binaries")
	bin := flags.String("bin", "", "`directory` with the binaries of the platform")
	tree := flags.String("tree", "", "`directory` to lay out what is below /usr in packages; none is made without it")
	out := flags.String("out", "", "`directory` for the archive and the bill of materials")
	papers := flags.Bool("papers", false, "write the licences and the bill of materials of -bin into -out, and nothing else")
	sums := flags.Bool("sums", false, "write the checksums of all that is in -out, and do nothing else")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *version == "" || *out == "" {
		return fmt.Errorf("-version and -out must be given")
	}
	if *sums {
		return writeSums(*out, "telegraf-victorialogs_"+*version+"_sha256sums.txt")
	}

	binaries, err := filepath.Glob(filepath.Join(*bin, "*"))
	if err != nil || len(binaries) == 0 {
		return fmt.Errorf("-bin %q has no binaries", *bin)
	}
	slices.Sort(binaries)
	s := set{
		name:     "telegraf-victorialogs_" + *version + "_" + strings.ReplaceAll(*platform, "/", "_"),
		version:  *version,
		time:     time.Unix(*epoch, 0).UTC(),
		binaries: binaries,
		texts:    flags.Args(),
	}
	modules, err := readModules(s.binaries)
	if err != nil {
		return err
	}
	const texts = "THIRD-PARTY-LICENSES.txt"
	if *papers {
		if err := writeLicences(filepath.Join(*out, texts), modules); err != nil {
			return err
		}
		return s.writeBill(filepath.Join(*out, "sbom.cdx.json"), modules)
	}
	licences := filepath.Join(filepath.Dir(filepath.Clean(*bin)), s.name+".licences", texts)
	if err := writeLicences(licences, modules); err != nil {
		return err
	}
	s.texts = append(s.texts, licences)

	bill := filepath.Join(*out, s.name+".cdx.json")
	if err := s.writeBill(bill, modules); err != nil {
		return err
	}
	archive := filepath.Join(*out, s.name)
	if strings.HasPrefix(*platform, "windows/") {
		err = s.writeZip(archive + ".zip")
	} else {
		err = s.writeTar(archive + ".tar.gz")
	}
	if err != nil || *tree == "" {
		return err
	}
	return s.layOut(*tree, bill)
}
