package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sqlAt gives the index of the SQL among the arguments of a function. The functions are
// pgx's methods and pg.DeleteBatches. Only goose uses database/sql, on embedded files.
var sqlAt = map[string]int{"DeleteBatches": 4, "Exec": 1, "Query": 1, "QueryRow": 1, "Queue": 0, "Prepare": 2, "ExecParams": 1, "CopyTo": 2}

// composed lists the SQL that the program puts together while it runs. Each value says
// why no input from outside can change this SQL.
var composed = map[string]string{
	"events/idempotency.go fmt.Sprintf(`set local lock_timeout = %d`, tx.store.claimWait.Milliseconds())": "a number, and SET takes no parameters",
	"events/history.go upsert + condition": "its callers pass constants, in the same package",
	"events/batches.go `select ` + batchColumns + ` from batches b join batch_lines l on l.batch = b.id and l.number = 0 where ` + where": "its callers pass constants, in the same file",
	"events/batches.go `update batches set ` + set + ` where id = $1 and ` + where":                                                       "its callers pass constants, in the same file",
	"events/batchlines.go `update batches set ` + count + ` = ` + count + ` + 1, ` + bytes + ` = ` + bytes + ` + $2 where id = $1`":       "one of two pairs of constants",
	"events/batchlines.go `select number, rank, jobs, sealed from batch_lines where batch = $1 and ` + where":                             "its callers pass constants, in the same file",
	"events/erase.go query": "composed of constants, in the same file",
	"events/files.go `select ` + fileColumns + ofFiles + where":                                                                               "its callers pass constants, in the same file",
	"events/files.go `\n\t\t\tselect number, first_line, sealed from file_chunks where owner = $1 and file = $2 and number > 0 and ` + where": "its callers pass constants, in the same file",
	"events/files.go sql":    "one of two constants",
	"events/files.go of.sql": "one of four constants",
	"events/rekeyparts.go `select ` + of.whole + `, number, sealed from ` + of.table + ` where owner = $1 and (` + of.whole + `, number) > ($2, $3) order by ` + of.whole + `, number limit $4`": "names of two tables, constants in the same package",
	"events/rekeyparts.go `update ` + of.table + ` set sealed = sealed_by($1, $2::integer, $3) where ` + of.whole + ` = $4 and number = $5 and sealed = $6`":                                     "names of two tables, constants in the same package",
	"internal/auth/ended.go query": "one of two constants",
	"internal/auth/run.go sql":     "composed of the constants above it",
	"test/chaos/weather.go `select pid from pg_stat_activity where ` + condition": "constants, in a program for tests",
	"test/chaos/postgres.go `alter system set ` + setting + ` = '` + value + `'`": "constants, in a program for tests",
	"test/chaos/postgres.go sql":  "constants, in a program for tests",
	"internal/limit/store.go sql": "its callers pass constants, in the same file",
	"internal/pg/delete.go sql":   "its callers' argument, which this test checks there",
	"internal/pg/cluster.go `CREATE DATABASE ` + pgx.Identifier{…}.Sanitize()": "a quoted name of the program's own: CREATE takes no parameters",
	"internal/pg/pool.go sql":      "constants, a number, and a quoted name of the program's own: SET takes no parameters",
	"migrations/migrations.go sql": "lines of the embedded migrations",
	"migrations/roles.go `create role ` + name + ` login in role ` + AppRole": "a quoted name of the program's own: CREATE takes no parameters",
	"migrations/roles.go `grant ` + AppRole + ` to ` + name":                  "a quoted name of the program's own: GRANT takes no parameters",
}

// TestSQLIsConstant requires that every statement which the product sends to Postgres is
// a constant. Values must be parameters. The test type-checks each package alone, which
// is enough to find the package's constants.
//
// security: ASVS 1.2.4
func TestSQLIsConstant(t *testing.T) {
	calls, seen := 0, map[string]bool{}
	known := packages{}
	err := filepath.WalkDir("../..", func(dir string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if name := entry.Name(); name == ".git" || name == "testdata" || name == "pgtest" {
			return fs.SkipDir
		}
		files := token.NewFileSet()
		parsed, err := parse(files, dir)
		if err != nil {
			return err
		}
		n, found := notConstant(known, files, parsed)
		calls += n
		for _, where := range found {
			name, _ := filepath.Rel("../..", where)
			seen[name] = true
			if composed[name] == "" {
				t.Errorf("SQL that is not constant: %s", name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(composed)) {
		if !seen[name] {
			t.Errorf("%s is listed here and is no longer in the code", name)
		}
	}
	if calls < 80 {
		t.Errorf("only %d statements were checked", calls)
	}
}

// packages imports the packages of this module, because the tests need their constants.
// It replaces all other packages by empty packages.
type packages map[string]*types.Package

func (known packages) Import(path string) (*types.Package, error) {
	if p, ok := known[path]; ok {
		return p, nil
	}
	p := types.NewPackage(path, filepath.Base(path))
	if dir, ok := strings.CutPrefix(path, "colophon/"); ok {
		files := token.NewFileSet()
		parsed, err := parse(files, filepath.Join("../..", dir))
		if err != nil {
			return nil, err
		}
		p, _ = known.check(files, parsed, nil)
	}
	p.MarkComplete()
	known[path] = p
	return p, nil
}

// check type-checks a package. It ignores all errors, because unknown imports cause
// errors.
func (known packages) check(files *token.FileSet, parsed []*ast.File, info *types.Info) (*types.Package, error) {
	config := types.Config{Importer: known, Error: func(error) {}}
	return config.Check("p", files, parsed, info)
}

// parse parses the files of a package, except tests.
func parse(files *token.FileSet, dir string) (parsed []*ast.File, err error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, file)
	}
	return parsed, nil
}

// notConstant returns the number of statements in a package. It also returns the file and
// the text of each statement that is not constant.
func notConstant(known packages, files *token.FileSet, parsed []*ast.File) (calls int, found []string) {
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	_, _ = known.check(files, parsed, info) // unknown imports cause errors, which do not matter here
	for _, file := range parsed {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			method, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			at, ok := sqlAt[method.Sel.Name]
			if !ok || len(call.Args) <= at {
				return true // another function of the same name, such as a method of a batch's result or of a URL
			}
			calls++
			if arg := call.Args[at]; info.Types[arg].Value == nil {
				found = append(found, files.Position(arg.Pos()).Filename+" "+types.ExprString(arg))
			}
			return true
		})
	}
	return calls, found
}

func TestSQLThatIsNotConstantIsFound(t *testing.T) {
	const code = `package p
import ("context"; "fmt"; "example.com/pgx"; "example.com/other"; "colophon/migrations")
const columns = "a, b"
const table = "t" + columns
var changed = "c"
func f(ctx context.Context, db pgx.DB, name string) {
	const local = "x"
	db.Exec(ctx, "select " + columns + table + local, name)
	db.Queue(columns)
	db.Queue("b", name).Exec(func() {})
	db.Query("not SQL")
	{
		columns := name
		db.QueryRow(ctx, columns)
	}
	db.Exec(ctx, "select " + name)
	db.Exec(ctx, changed)
	db.Query(ctx, fmt.Sprintf("select %s", columns))
	db.Queue(other.Text)
	db.Queue("select from " + migrations.RiverJobs)
	db.Queue("select " + migrations.ErrBehind.Error())
	func() { db.Query(ctx, name) }()
}`
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, "f", code, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	calls, found := notConstant(packages{}, files, []*ast.File{file})
	want := []string{"f columns", `f "select " + name`, "f changed", `f fmt.Sprintf("select %s", columns)`, "f other.Text", `f "select " + migrations.ErrBehind.Error()`, "f name"}
	if calls != 11 || !slices.Equal(found, want) {
		t.Errorf("%d calls, %q", calls, found)
	}
}
