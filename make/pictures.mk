# The README's pictures, which the project makes itself.

##@ Pictures

pictures: setup ## draw the system, and record a real `make run`, for the README
	$(PYTHON) make/draw_system.py docs/pictures
	@$(WITH_THE_LIBRARY) localcloud.recording docs/pictures
