SELECT pg_catalog.json_build_object(
  'version', pg_catalog.current_setting('server_version_num')::int4,
  'started', pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()),
  'inRecovery', r.recovery,
  'writable', NOT r.recovery AND pg_catalog.current_setting('default_transaction_read_only') = 'off',
  'flushed', CASE WHEN r.recovery THEN NULL ELSE pg_catalog.pg_current_wal_flush_lsn() END,
  'received', CASE WHEN r.recovery THEN pg_catalog.pg_last_wal_receive_lsn() END,
  'receivedTimeline', w.received_tli,
  'upstreamEnd', w.latest_end_lsn,
  'replayed', CASE WHEN r.recovery THEN pg_catalog.pg_last_wal_replay_lsn() END,
  'replayedAt', CASE WHEN r.recovery THEN pg_catalog.to_char(
    pg_catalog.pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') END,
  'replayedAge', CASE WHEN r.recovery THEN pg_catalog.date_part(
    'epoch', pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()) END,
  'checkpointTimeline', (SELECT c.timeline_id FROM pg_catalog.pg_control_checkpoint() c),
  'streaming', coalesce(w.status = 'streaming', false),
  'paused', CASE WHEN r.recovery THEN pg_catalog.pg_is_wal_replay_paused() ELSE false END,
  'synchronousStandbyNames', pg_catalog.current_setting('synchronous_standby_names'),
  'replication', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
      'application_name', s.application_name, 'client_addr', pg_catalog.host(s.client_addr),
      'state', s.state, 'sync_state', s.sync_state, 'flush_lsn', s.flush_lsn)), '[]')
    FROM pg_catalog.pg_stat_replication s),
  'users', (SELECT coalesce(pg_catalog.json_object_agg(s.application_name, l.slot_name), '{}')
    FROM pg_catalog.pg_stat_replication s
    JOIN pg_catalog.pg_replication_slots l ON l.active_pid = s.pid AND l.slot_type = 'physical'),
  'slots', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
      'name', l.slot_name, 'active', l.active, 'restart', l.restart_lsn,
      'lost', coalesce(l.wal_status = 'lost', false))), '[]')
    FROM pg_catalog.pg_replication_slots l WHERE l.slot_type = 'physical')
)::text
FROM (SELECT pg_catalog.pg_is_in_recovery() AS recovery) r LEFT JOIN pg_catalog.pg_stat_wal_receiver w ON true
