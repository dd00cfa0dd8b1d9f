-- +goose Up

-- A lease always has a holder. A lease that expired without being given back
-- stays until another attempt takes it or the job has ended. Sweepers look for
-- jobs without a valid lease and no longer for expired leases. A renewal that
-- changes no index is cheap.
drop index leases_expired;
delete from leases where holder is null;
alter table leases alter holder set not null;

-- +goose Down
alter table leases alter holder drop not null;
create index leases_expired on leases (expires_at) where holder is not null;
