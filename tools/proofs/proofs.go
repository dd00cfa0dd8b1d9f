package main

// proofs are the claims of the report, in its order.
var proofs = []proof{
	{
		title: "Changes of the log are found",
		says: `Somebody with all rights in the database, but without a key, changes a log, with the triggers off. ` + "`colophon log verify`" + `
compares it with a checkpoint that was kept elsewhere, and names the first event that is wrong. Only in a log whose event
and entry were rewritten consistently no event is wrong: the log then contradicts the checkpoint.`,
		env:  []string{"COLOPHON_TEST_JOBS=2500"},
		args: []string{"-run", "TestTamperingIsFound|TestConsistentRewriteIsFound", "./events/ledger"},
	},
	{
		title: "Changes of a receipt are found",
		says: `Receipts leave events out, end early, swap openings between members, events and jobs, or have one byte changed or
removed. Each ends with "refuted" or "cannot tell".`,
		args: []string{"-run", "TestReceiptsAreRefused|TestEveryByteOfAReceiptCounts|TestKeyWithTheHash|TestTrustDecides|TestSpellings", "./events/receipt"},
	},
	{
		title: "A ciphertext that opens under two keys shows one text",
		says: `AES-GCM does not commit to its key, and the test makes two ciphertexts that open under two keys. One opens to two
texts, and the other one to a text as the service writes it and to noise. Under the first key, everything is right. When the
second key takes its place, readers and ` + "`colophon log verify`" + ` refuse the event, and no receipt is made. ` + "`colophon verify`" + `
refutes receipts that show the other text.`,
		args: []string{"-run", "TestCiphertextOfTwoKeysShowsOneText", "./cmd/colophon"},
	},
	{
		title: "A ciphertext says what was committed, or nothing",
		says: `Whatever an event's ciphertext opens to, values other than the committed ones are refused. A receipt contains no
ciphertext.`,
		args: []string{"-run", "TestSealedMembersMustBeThoseOfTheCommitments", "./events"},
	},
	{
		title: "Four verifiers agree on the text of a job that was killed",
		says: `A worker is killed with SIGKILL, and another one finishes its job. The command, the Go package, examples/verify.py and
the page /verify in Chromium prove the receipt, and refute a changed one.`,
		args: []string{"-run", "TestReceiptOfAContinuedJobIsProvenByAllVerifiers", "./test/processes"},
	},
	{
		title: "Every committed event has one index",
		says: `There are 64 writers, some of which roll back or commit late, two sequencers that are killed again and again, and eight readers:
no gap, no repeat, and the events of each stream in order. The orders that a log might use instead lose or reorder
events. The log goes on in a restored database, after a promotion, after a crash, and beside foreign transactions.`,
		args: []string{"-run", "TestLogIsDense|TestOtherOrders|TestForeign|TestLate|TestEachStatement|TestPrepared|TestLogGoesOn|TestRunGoesOn|TestOneSequencer|TestRolledBack", "./events/ledger"},
	},
	{
		title: "From the commit to the index",
		says:  `1,000 events a second, each in a transaction of its own.`,
		args:  []string{"-run", "^$", "-bench", "IndexLatency", "-benchtime", "10000x", "./events/ledger"},
	},
	{
		title: "A second history is not signed",
		says: `A standby is promoted that lacks signed events, a signed event is removed or changed, a witness has seen another
tree, or the file of the signer is gone: the signer refuses. It waits for the standby before it signs.`,
		args: []string{"-run", "TestLossyFailover|TestLostEvents|TestChangedEvent|TestWitnesses|TestWrongAnswers|TestSignerWaits|TestForgedCheckpoint|TestNewName", "./events/ledger"},
	},
	{
		title: "A million events are verified",
		says:  `The columns against the payload, the chain of each stream, the commitments, the entries, the tree and its nodes.`,
		env:   []string{"COLOPHON_BENCH_EVENTS=1000000"},
		args:  []string{"-run", "^$", "-bench", "Verify", "-benchtime", "1x", "./events/ledger"},
	},
	{
		title: "The history of a million events is rebuilt beside clients",
		says: `Two of five rows are wrong. Beside the rebuild, clients read the history and append events. No call fails, and at the
end every row agrees with its events.`,
		env:  []string{"COLOPHON_TEST_JOBS=200000"},
		args: []string{"-run", "^$", "-bench", "RebuildBesideClients", "-benchtime", "1x", "./events"},
	},
	{
		title: "Programs of other people agree on the log",
		says: `tessera and torchwood read a log of 100,000 events over HTTP, and so does ` + "`colophon log verify --url`" + `. All three
refuse the log after a change of an entry, a node or the signature. torchwood verifies proofs of jobs, with a witness.`,
		dir:  "test/interop",
		args: []string{"-run", "TestOthersAgreeOnTheLog|TestTorchwoodVerifiesProofsOfJobs", "."},
	},
	{
		title: "Erased texts are nowhere",
		says: `Texts are erased by DELETE, by retention and with their account. Then a dump of the database, the logs, the metrics,
the tiles and the receipts are searched for them, in several encodings. Texts that were kept are found in the dump.`,
		args: []string{"-run", "TestErasedTextsAreNowhere", "./test/e2e"},
	},
	{
		title: "Jobs replay to the same tokens",
		says: `Jobs that a worker has run are run again with other numbers of threads, beside other jobs, and with other splits of
the text. One changed byte of the weights is found, and so is each change of a record.`,
		env:  []string{"COLOPHON_TEST_REPLAYS=1000"},
		args: []string{"-run", "TestJobsReplayEqual|TestFlippedWeightByteIsFound|TestReplayFindsEveryChangeOfARecord", "./jobs"},
	},
	{
		title: "A replay is faster than decoding",
		says:  "The built-in model, with its recorded tokens computed at once, and one by one.",
		args:  []string{"-run", "^$", "-bench", "Replay", "./jobs"},
	},
	{
		title: "Appends beside a sequencer",
		says: `Sixteen writers append the events of jobs as fast as the database commits them, on both processors, with and without a
sequencer. Each event has a transaction of its own, which also changes the history.`,
		args: []string{"-run", "^$", "-bench", "Append", "-benchtime", "20000x", "-count", "3", "./events/ledger"},
	},
	{
		title: "A data key is replaced beside writers and readers",
		says: "`colophon keys rotate --owner`" + ` is killed at its statements one after another, while processes write and read. An
erasure wins, a process that was frozen with the earlier key writes nothing, and in the end the earlier key opens no value
of any table.`,
		args: []string{"-run", "TestRekey|TestErasureWins|TestFrozenProcess|TestSuperseded|TestCheckOfAnOlderSnapshot|TestCiphertextChangesOnly", "./events"},
	},
	{
		title: "A watermark changes no distribution, and is found",
		says: `Chi-squared and log-likelihood compare marked with unmarked texts. The p-values of unmarked texts, of texts of other
keys and of Newton's own are valid. The tables show how many marked texts are found at p below 10⁻⁶, by temperature and number of tokens,
and how many after a third of the tokens was replaced. An interrupted text continues alike at every cut.`,
		env:  []string{"COLOPHON_BENCH_TEXTS=5000"},
		args: []string{"./model/watermark"},
	},
}
