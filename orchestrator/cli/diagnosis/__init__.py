"""Why a saga or an event does not advance."""
