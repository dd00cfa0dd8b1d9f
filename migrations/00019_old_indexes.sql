-- +goose Up

-- Events of several streams are read by their index in the log, so the indexes by
-- transaction are not needed any more. This is a migration of its own, because it locks the
-- table exclusively: after the long lock of the migration before, that could end in a
-- deadlock with a writer.
drop index events_in_commit_order;
drop index events_of_owner;

-- +goose Down
create unique index events_in_commit_order on events (tx, position);
create index events_of_owner on events (owner, tx, position);
