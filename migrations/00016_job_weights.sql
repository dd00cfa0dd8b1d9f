-- +goose Up

-- weights is the digest of the weights that a job was accepted for or reassigned to. It is
-- empty for jobs from before this migration, which any weights may run.
alter table history add column weights text not null default '';

-- +goose Down
alter table history drop column weights;
