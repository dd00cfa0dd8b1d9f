-- +goose Up

-- From this migration on, a lease always has a holder. An expired lease stays until
-- another attempt takes it or the job has ended. Workers search for jobs without a
-- valid lease and no longer for expired leases, so the index on expires_at is not
-- needed. Without the index, a renewal is cheap.
drop index leases_expired;
delete from leases where holder is null;
alter table leases alter holder set not null;

-- +goose Down
alter table leases alter holder drop not null;
create index leases_expired on leases (expires_at) where holder is not null;
