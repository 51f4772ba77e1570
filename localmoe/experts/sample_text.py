"""A short text of several kinds, to see where a model sends its tokens when nothing else was recorded."""

SAMPLE_TEXT = (
    "Dear Ruth, thank you for the seeds. We sowed the beans along the south wall last week, and "
    "yesterday the first leaves were up. Tom says it is too early; we shall see who is right. "
    "Could you bring the long ladder when you come on Sunday? The gutter above the kitchen is "
    "full of leaves again.",
    "def median(values):\n"
    "    ordered = sorted(values)\n"
    "    middle = len(ordered) // 2\n"
    "    if len(ordered) % 2:\n"
    "        return ordered[middle]\n"
    "    return (ordered[middle - 1] + ordered[middle]) / 2\n"
    "\n"
    "print(median([3, 1, 4, 1, 5, 9, 2, 6]))",
    "Water boils when the pressure of its vapour equals the pressure around it. On a mountain of "
    "5,000 metres the air presses about half as hard as at the sea, and water boils at 83 "
    "degrees Celsius; an egg then needs longer. A closed pot goes the other way: at twice the "
    "pressure it boils at 120 degrees.",
    "Le train de sept heures avait vingt minutes de retard. Sur le quai, une femme lisait le "
    "journal; un enfant comptait les wagons de marchandises. Quand la pluie commença, tout le "
    "monde se serra sous l'horloge.",
    "Q: A shop sells pencils in boxes of 12. A school needs 250 pencils. How many boxes must it "
    "buy?\n"
    "A: 250 / 12 is 20 remainder 10, so 20 boxes are not enough. It must buy 21 boxes and will "
    "have 2 pencils left over.",
    '{"order": 1184, "customer": {"name": "Ines Duarte", "city": "Porto"}, "items": [{"sku": '
    '"KB-77", "count": 2, "price": 49.5}, {"sku": "HD-12", "count": 1, "price": 110.0}], "paid": '
    "true}",
)
