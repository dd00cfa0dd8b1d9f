-- +goose Up

-- A lease has a holder, always: one that has expired without being given back is
-- left until somebody takes it, or the job has ended. Nothing looks for expired
-- leases any more, but for jobs without a living one; and a renewal that changes
-- no index is cheap.
drop index leases_expired;
delete from leases where holder is null;
alter table leases alter holder set not null;

-- +goose Down
alter table leases alter holder drop not null;
create index leases_expired on leases (expires_at) where holder is not null;
